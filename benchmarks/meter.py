"""What a measured process says about itself."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Reading:
    """Three clocks at one moment, seconds."""

    #: Wall clock that only grows.
    wall: float
    #: CPU of all threads of this process, user and system.
    cpu: float
    #: CPU of the thread that asks, which is the one that runs Python.
    thread: float

    @classmethod
    def now(cls) -> Reading:
        return cls(time.monotonic(), time.process_time(), time.thread_time())


def peak_rss_mib() -> float:
    """The most memory that this process ever had resident, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # not ru_maxrss, which on Linux counts the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def events_a_second(report: dict[str, Any]) -> float:
    """Events a second, of what a process reported."""
    return float(report["events"] / report["seconds"])


def cpu_an_event(report: dict[str, Any]) -> float:
    """Microseconds of CPU an event, of what a process reported."""
    return float(report["cpu_seconds"] / report["events"] * 1e6)


def report(events: int, began: Reading, ended: Reading, **more: object) -> None:
    """Print what was measured as one line of JSON, the last one of this process."""
    body = {
        "events": events,
        "seconds": ended.wall - began.wall,
        "cpu_seconds": ended.cpu - began.cpu,
        "thread_seconds": ended.thread - began.thread,
        "peak_rss_mib": peak_rss_mib(),
        **more,
    }
    sys.stdout.write(orjson.dumps(body).decode() + "\n")
    sys.stdout.flush()
