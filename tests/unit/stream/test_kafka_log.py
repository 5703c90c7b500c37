"""What the Kafka adapter decides without a broker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import stream
from stream.kafka.client import metadata_text


class Found:
    """A commit whose metadata librdkafka hands over with some of what follows it in memory."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @property
    def metadata(self) -> str:
        return self._raw.decode()


@pytest.mark.parametrize("after", [b"", b"Q", b"\x96", b"}", b'{"format": 2}', b"\xff\xfe 1"])
def test_what_follows_a_commits_metadata_in_memory_is_not_part_of_it(after: bytes) -> None:
    ours = '{"format":1,"pipeline":"p\u00fc","shape":{"task":"ab"}}'
    found: Any = Found(ours.encode() + after)

    assert metadata_text(found) == ours


@pytest.mark.parametrize("text", ["", "mine", "{", "not ours }"])
def test_metadata_that_is_not_ours_is_kept_for_the_refusal(text: str) -> None:
    found: Any = Found(text.encode())

    assert metadata_text(found) == text


def test_one_folder_knows_confluent_kafka() -> None:
    ours = Path(stream.__file__).parent.parent
    files = [
        path for package in ("stream", "learners", "monitors") for path in (ours / package).rglob("*.py")
    ]

    knowing = {
        path.parent for path in files if re.search(r"^(from|import) confluent_kafka", path.read_text(), re.M)
    }

    assert knowing == {ours / "stream" / "kafka"}
