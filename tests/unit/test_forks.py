"""A worker that begins as a copy is a process as any other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from stream.settings import example_settings
from tests.forks import Fork, can_fork
from tests.support import WorkerProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux only")


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """Settings of a pipeline whose broker is not there: a worker that begins, and waits for it."""
    path = tmp_path / "p.toml"
    path.write_text(example_settings("p").replace("9092", "9"))
    return path


def test_it_has_its_own_session_and_standard_streams(settings_file: Path) -> None:
    worker = WorkerProcess(settings_file)
    try:
        assert isinstance(worker.process, Fork)
        assert os.getsid(worker.pid) == worker.pid
        assert Path(f"/proc/{worker.pid}/fd/0").readlink() == Path(os.devnull)
        assert Path(f"/proc/{worker.pid}/fd/2").readlink() == worker.stderr_file
        assert worker.is_running()
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(0.01)
    finally:
        worker.kill()
    assert worker.process.returncode == worker.process.poll() == -signal.SIGKILL


def test_its_environment_exit_code_and_last_line_are_its_own(settings_file: Path) -> None:
    first = WorkerProcess(settings_file.with_name("other.toml"))
    second = WorkerProcess(settings_file, HEADRACE_TASK="no such task")

    assert (first.wait(), second.wait()) == (2, 2)
    assert "there is no such file" in first.said
    assert "no such task" in second.said


def test_another_hash_seed_and_programs_that_change_what_is_imported_are_no_copies() -> None:
    assert can_fork("tests.faults.crashing", {"PYTHONHASHSEED": "0"})
    assert not can_fork("stream.cli", {"PYTHONHASHSEED": "1"})
    assert not can_fork("stream.cli", {})
    assert not can_fork("tests.faults.other_river", {"PYTHONHASHSEED": "0"})


def test_a_copy_ends_with_its_original_and_the_next_one_has_another(settings_file: Path) -> None:
    worker = WorkerProcess(settings_file)
    psutil.Process(worker.pid).parent().kill()

    assert worker.wait(30) == -signal.SIGKILL
    assert WorkerProcess(settings_file.with_name("other.toml")).wait() == 2
