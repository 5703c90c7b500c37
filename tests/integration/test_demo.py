"""`make demo`, as its users run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # psutil ships no types
import pytest

pytestmark = pytest.mark.integration

DEMO = [sys.executable, str(Path(__file__).parents[2] / "examples" / "demo.py")]


@pytest.mark.parametrize("options", [[], ["--dataset", "images", "--partitions", "2", "--no-drifts"]])
def test_the_demo_ends_by_itself_with_equal_numbers(
    options: list[str], kafka_installed: None, tmp_path: Path
) -> None:
    ended = subprocess.run([*DEMO, *options], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "All numbers are equal" in ended.stdout
    assert " NO" not in ended.stdout
    assert ("hddm-w" in ended.stdout) is (options == [])
    assert not ended.stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_no_process_behind(kafka_installed: None, tmp_path: Path) -> None:
    # A session of its own: Ctrl-C reaches the demo and all its children, and not the tests.
    with subprocess.Popen(
        DEMO,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("Kafka runs"):
                break
        children = psutil.Process(running.pid).children(recursive=True)
        names = [child.name() for child in children]

        os.killpg(running.pid, signal.SIGINT)

        assert "Stopped." in running.stdout.read()
    assert running.returncode == 130
    assert "java" in names
    assert not psutil.wait_procs(children, timeout=20)[1]
