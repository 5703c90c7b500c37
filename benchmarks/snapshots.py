"""What snapshots cost: the same worker on the same events, without them and with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.meter import cpu_an_event, events_a_second
from benchmarks.results import spread, table

#: What the README promises: least speed with snapshots, as a share of that without.
LEAST_SHARE = 0.95
#: Lines of the settings. By default snapshots are on; a run of a second has some if they come more often.
WITHOUT = "\n[snapshots]\nenabled = false\n"
DEFAULT = ""
OFTEN = "\n[snapshots]\ninterval_seconds = 0.1\ninterval_events = 2000\n"


@dataclass(frozen=True, slots=True)
class Pair:
    """One run of each, one after the other, as the processes reported them."""

    without: dict[str, Any]
    with_snapshots: dict[str, Any]

    @property
    def share(self) -> float:
        return events_a_second(self.with_snapshots) / events_a_second(self.without)


def require_comparable(pair: Pair, count: int, least_snapshots: int) -> None:
    """Both must have done the same, and only one of them must have taken snapshots, and enough of them.

    Raises:
        SystemExit: Says what was different.
    """
    for report in (pair.without, pair.with_snapshots):
        if report["events"] != count or report["dead_letters"]:
            raise SystemExit(f"{count} events, but the worker had {report}")
    if pair.without["accuracy"] != pair.with_snapshots["accuracy"]:
        raise SystemExit(
            f"accuracy is {pair.with_snapshots['accuracy']} with snapshots, {pair.without['accuracy']} without"
        )
    if pair.without["snapshots"]:
        raise SystemExit("snapshots were taken though they were not enabled")
    found = len(pair.with_snapshots["snapshots"])
    if found < least_snapshots:
        raise SystemExit(f"{found} snapshots in {count} events; expected at least {least_snapshots}")


def snapshots_table(pairs: Mapping[str, Sequence[Pair]]) -> str:
    """One line for each model."""
    heads = (
        "model", "events/s without", "events/s with", "share", "CPU us/event without", "CPU us/event with",
        "peak RSS MiB without", "peak RSS MiB with", "snapshots a run", "KiB", "worker stands still, ms",
        "until verified, ms", "events x rounds",
    )  # fmt: skip
    rows = []
    for title, found in pairs.items():
        without = [pair.without for pair in found]
        with_snapshots = [pair.with_snapshots for pair in found]
        taken = [item for report in with_snapshots for item in report["snapshots"]]
        rows.append(
            [
                title,
                f"{median(map(events_a_second, without)):,.0f}",
                f"{median(map(events_a_second, with_snapshots)):,.0f}",
                spread([pair.share for pair in found], 2),
                f"{median(map(cpu_an_event, without)):.1f}",
                f"{median(map(cpu_an_event, with_snapshots)):.1f}",
                f"{max(report['peak_rss_mib'] for report in without):.0f}",
                f"{max(report['peak_rss_mib'] for report in with_snapshots):.0f}",
                f"{median(len(report['snapshots']) for report in with_snapshots):g}",
                spread([item["bytes"] / 1024 for item in taken], 0),
                spread([item["pause_seconds"] * 1e3 for item in taken], 1),
                spread([item["seconds"] * 1e3 for item in taken], 0),
                f"{without[0]['events']:,} x {len(found)}",
            ]
        )
    return table(heads, rows)
