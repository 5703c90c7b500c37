from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from stream.errors import EnvironmentRefused
from stream.process import WriterSlot
from tests.helpers import settings_for


def test_a_machine_without_a_place_for_lock_files_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    in_the_way = tmp_path / f"headrace-{os.getuid()}"
    in_the_way.write_text("")

    with pytest.raises(EnvironmentRefused) as raised:
        WriterSlot(settings_for())

    assert (
        f"no lock file can be made by which the workers of this machine tell who is who (File exists: {in_the_way})"
        in str(raised.value)
    )
    assert "TMPDIR" in str(raised.value)
