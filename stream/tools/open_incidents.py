"""Incidents that are open: from the alerts topic, and from what workers say now of those that they have opened."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from monitors import Incident
from monitors.fleet.reading import Unreadable, read_alert
from stream.settings import Settings
from stream.tools.cluster import Bounds, Reader

#: Records of each partition of the alerts topic that are looked at: the newest, as many as the monitor reads.
LOOKED_AT: Final = 20_000
#: Seconds to wait for them.
READ_SECONDS: Final = 10.0
#: Who opens what is not a worker's: see `monitors.fleet.watchdogs`.
MONITOR: Final = "monitor"
#: The worst first.
SEVERITIES: Final = ("critical", "warning", "info")

Key = tuple[int | None, str]
"""Partition (None: the whole pipeline) and name."""


class Reading(NamedTuple):
    """What lies on the alerts topic."""

    open: Mapping[Key, Incident]
    #: Partitions of it that were not read to their ends in time: what is on them may be missing, or over.
    unread: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIncident:
    """One kind of incident that is open, and the partitions that have it."""

    incident: str
    severity: str
    #: Those that have it, in order; None: it is about the whole pipeline.
    partitions: Sequence[int] | None
    #: Wall clock when the first of them opened, epoch seconds.
    since: float
    #: What happened and what to do, of the one that opened last.
    text: str
    #: Why it may be over although nobody has closed it; empty: it is as it says.
    doubt: str
    each: Sequence[Incident]

    def to_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "incident": self.incident,
            "severity": self.severity,
            "partitions": None if self.partitions is None else list(self.partitions),
            "since": self.since,
            "text": self.text,
            "doubt": self.doubt or None,
            "each": [
                {
                    "partition": item.partition,
                    "since": item.time,
                    "text": item.text,
                    "told_by": item.worker,
                }
                for item in self.each
            ],
        }


def read_open(settings: Settings, bounds: Sequence[Bounds]) -> Reading:
    """What is open on the alerts topic, whose partitions begin and end there.

    Raises:
        EnvironmentRefused: It can't be read.
    """
    topic = settings.topics.alerts
    left = {partition: log.end for partition, log in enumerate(bounds) if log.end > log.first}
    opened: dict[Key, Incident] = {}
    if not left:
        return Reading(opened, ())
    deadline = time.monotonic() + READ_SECONDS
    with Reader(settings, [(topic, partition) for partition in left]) as reader:
        for partition, end in left.items():
            reader.seek(topic, partition, max(bounds[partition].first, end - LOOKED_AT))
        while left and time.monotonic() < deadline:
            for record in reader.poll(0.2):
                take(opened, record.value, settings.name)
            # A position, since the mark at the end of a transaction is handed over to nobody.
            left = {
                partition: end for partition, end in left.items() if reader.position(topic, partition) < end
            }
    return Reading(opened, sorted(left))


def take(opened: dict[Key, Incident], value: bytes | None, pipeline: str) -> None:
    """Take a record of the alerts topic in, in the order of its log."""
    try:
        found = read_alert(value)
    except Unreadable:
        return
    if not isinstance(found, Incident) or found.pipeline != pipeline:
        return
    key = found.partition, found.incident
    if found.state == "open":
        opened.setdefault(key, found)
    else:
        opened.pop(key, None)


def doubt_of(incident: Incident, status: Mapping[str, Any], *, is_fresh: bool, workers: int) -> str:
    """Why an incident may be over although nobody has closed it; empty: there is no reason to think so.

    A worker closes what it has opened when it lets go of the partition. One that was killed closes nothing, and its
    successor does not know of it: what that one's statuses do not name is not open by its own account.

    Args:
        incident: It is open on the alerts topic.
        status: The last status of its partition; empty: there is none.
        is_fresh: Whether that status is of now.
        workers: Workers that run now.
    """
    if incident.worker == MONITOR or incident.partition is None:
        return ""
    if workers == 0:
        return "the worker that told of it ended without closing it, and none runs now"
    if not is_fresh or status.get("time", 0.0) <= incident.time:
        return ""
    names = status.get("incidents")
    is_told = incident.incident in names if names is not None else status.get("worker") == incident.worker
    return (
        ""
        if is_told
        else "the worker that told of it ended without closing it; the one of now does not tell of it"
    )


def grouped(found: Iterable[tuple[Incident, str]]) -> list[OpenIncident]:
    """Incidents with their doubts, as one for each kind: the worst first, and of those what opened last."""
    groups: dict[tuple[str, str, bool, str], list[Incident]] = {}
    for incident, doubt in found:
        key = incident.incident, incident.severity, incident.partition is None, doubt
        groups.setdefault(key, []).append(incident)
    kinds = []
    for (name, severity, is_whole, doubt), each in groups.items():
        kinds.append(
            OpenIncident(
                incident=name,
                severity=severity,
                partitions=None if is_whole else sorted(i.partition for i in each if i.partition is not None),
                since=min(item.time for item in each),
                text=max(each, key=lambda item: item.time).text,
                doubt=doubt,
                each=sorted(each, key=lambda item: -1 if item.partition is None else item.partition),
            )
        )
    return sorted(kinds, key=lambda kind: (bool(kind.doubt), SEVERITIES.index(kind.severity), -kind.since))
