"""Log lines of processes that share one standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import structlog
from stream.logs import configure_logs

configure_logs()
log = structlog.get_logger()
for number in range(500):
    log.info("x" * (number % 40) ** 2 * 10, number=number)
"""


@pytest.mark.parametrize("options", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_lines_of_processes_that_share_one_file_stay_whole(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "log"
    with path.open("ab") as stderr:
        writers = [
            subprocess.Popen([sys.executable, *options, "-c", WRITES], stderr=stderr) for _ in range(3)
        ]
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]

    numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]

    assert sorted(numbers) == sorted([*range(500)] * 3)
