"""`make demo`, as its users run it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # psutil ships no types
import pytest

from tests.support import PATIENCE, wait_until

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = [sys.executable, str(EXAMPLES / "demo.py")]
LIVE = [sys.executable, str(EXAMPLES / "demo_live.py"), "--port", "0"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["--dataset", "images", "--partitions", "2", "--no-drifts"], marks=pytest.mark.full),
    ],
)
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
        names = []
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that was for a moment only
                names.append(child.name())

        os.killpg(running.pid, signal.SIGINT)

        assert "Stopped." in running.stdout.read()
    assert running.returncode == 130
    assert "java" in names
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]


@pytest.mark.full
def test_the_live_demo_shows_both_pipelines_until_ctrl_c(kafka_installed: None, tmp_path: Path) -> None:
    with subprocess.Popen(
        LIVE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as running:
        assert running.stdout is not None
        address = ""
        for line in running.stdout:
            address = line.removeprefix("Dashboard: ").strip() if line.startswith("Dashboard: ") else address
            if line.startswith("Ctrl-C"):
                break
        assert address

        def moving() -> bool:
            with urllib.request.urlopen(f"{address}api/pipelines", timeout=30) as answer:
                return all(line["events"] > 0 and line["learned"] > 0 for line in json.load(answer))

        wait_until(moving, "both pipelines learn")
        children = psutil.Process(running.pid).children(recursive=True)
        assert len(children) >= 4  # the broker, two workers, the monitor

        os.killpg(running.pid, signal.SIGINT)

        rest = running.stdout.read()
        assert running.wait(60) == 0
    assert rest.strip() == "Stopped."
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert alive == []
    assert not list(tmp_path.iterdir())
