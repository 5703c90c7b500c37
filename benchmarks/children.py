"""Measured processes: each a module of this package, started with the same hash seed and nothing of our settings."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 300.0
STOP_SECONDS = 20.0


class ChildFailedError(RuntimeError):
    """A measured process ended with an error; the message holds its last words."""


def environment() -> dict[str, str]:
    """This process's environment, without overrides of settings and with a fixed hash seed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
    return kept | {"PYTHONHASHSEED": "0"}


def run_child(module: str, *arguments: str | int, python: str = sys.executable) -> dict[str, Any]:
    """Run a module to its end; what it printed last is its report."""
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [python, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        try:
            printed, _ = child.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise ChildFailedError(
                f"{module} did not end in {PATIENCE_SECONDS:.0f} s\n{_tail(said)}"
            ) from None
        finally:
            child.kill()
        if child.returncode != 0:
            raise ChildFailedError(f"{module} ended with {child.returncode}\n{_tail(said)}")
    report: dict[str, Any] = orjson.loads(printed.splitlines()[-1])
    return report


@contextmanager
def running_child(
    module: str, *arguments: str | int, python: str = sys.executable
) -> Iterator[Callable[[], bool]]:
    """Run a module until the block ends, then end it; the block is told how to ask whether it lives."""
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            [python, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            yield lambda: child.poll() is None
            if child.poll() is not None:
                raise ChildFailedError(f"{module} ended with {child.returncode}\n{_tail(said)}")
        except TimeoutError as error:
            raise ChildFailedError(f"{module}: {error}\n{_tail(said)}") from error
        finally:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _tail(said: IO[str]) -> str:
    said.seek(0)
    return "\n".join(said.read().splitlines()[-8:])
