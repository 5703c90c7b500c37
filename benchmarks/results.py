"""BENCHMARKS.md: each command writes its own section, with the machine it ran on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from benchmarks.children import ROOT
from stream.broker import KAFKA_VERSION

FILE = ROOT / "BENCHMARKS.md"
HEADING = """\
# Benchmarks

Written by `make bench` and `make bench-clients`, a section each: run them to have the figures of your own machine.
Ratios within a run say more than absolute figures.
"""


def write_section(name: str, body: str, path: Path = FILE) -> None:
    """Replace a command's section, or append it; what else is in the file stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text(encoding="utf-8") if path.exists() else HEADING
    section = f"{begin}\n{body.strip()}\n{end}\n"
    if begin in text and end in text:
        before, _, rest = text.partition(begin)
        text = before + section + rest.partition(end)[2].removeprefix("\n")
    else:
        text = f"{text.rstrip()}\n\n{section}"
    path.write_text(text, encoding="utf-8")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Example:
        >>> print(table(["what", "events/s"], [["a", "1,000"]]))
        | what | events/s |
        |---|---|
        | a | 1,000 |
    """
    lines = [heads, *rows]
    shown = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(heads), *shown[1:]])


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range.

    Example:
        >>> spread([0.5, 0.25, 1.0], 2)
        '0.50 (0.25 to 1.00)'
    """
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def circumstances(command: str, packages: Sequence[str]) -> str:
    """When, with which command, on what machine and with which libraries."""
    libraries = ", ".join(f"{name} {_version(name)}" for name in packages)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{command}`, on {_cpu()}, {os.cpu_count()} cores, "
        f"{_memory_gib():.0f} GiB, {_system()}, Python {platform.python_version()}, Apache Kafka {KAFKA_VERSION} "
        f"on the same machine; {libraries}. Load average when it began: {os.getloadavg()[0]:.1f}."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
