"""A pipeline whose statuses come by an explicit clock, with its watchdogs, for their tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from monitors import Incident, SnapshotFacts, Status
from monitors.fleet import Bounds, PipelineFacts, PipelineState, Source, Standing, Watchdogs
from tests.unit.monitors.fleet_cases import FACTS, STATUS, record

START: Final = STATUS.time
#: Seconds between two statuses of a partition, and two looks.
STEP: Final = 5.0
#: What grows with each second of a healthy pipeline: labelled events, and questions with their answers.
LABELLED: Final[dict[str, int]] = dict.fromkeys(
    ("offset", "end", "events", "predictions", "learned", "scored"), 20
)
#: What the relay is to bring over, and how many records of it come with each second.
RELAYED: Final = Source("chargebacks", 0)
RELAYED_A_SECOND: Final = 2
ASKED: Final[dict[str, int]] = LABELLED | {"events": 40, "questions": 20, "joined": 20}


class Scene:
    """A pipeline, its watchdogs and the alerts topic.

    Args:
        bounds: When the watchdogs bark.
        facts: What is known of the pipeline.
        partitions: How many it has.
        delivers: Whether what the watchdogs say comes back from the alerts topic at once.
    """

    def __init__(
        self,
        bounds: Bounds | None = None,
        facts: PipelineFacts = FACTS,
        *,
        partitions: int = 1,
        delivers: bool = True,
    ) -> None:
        self.now = START
        self.pipeline = PipelineState(facts)
        self.watchdogs = Watchdogs(bounds or Bounds())
        self.statuses = {partition: replace(STATUS, partition=partition) for partition in range(partitions)}
        self.delivers = delivers
        self.said: list[Incident] = []
        #: Where the relay stands, if there is one.
        self.standing = Standing(0, 0, 0)
        self.relay_stands = False
        self._written = {"status": 0, "alerts": 0}

    def restart(self, bounds: Bounds | None = None) -> None:
        """Another monitor goes on with what lies on the topics."""
        self.watchdogs = Watchdogs(bounds or Bounds())
        self.watchdogs.began(self.now)

    def run(
        self,
        seconds: float,
        grows: Mapping[str, int] = LABELLED,
        *,
        silent: tuple[int, ...] = (),
        only: tuple[int, ...] | None = None,
        **fields: Any,
    ) -> list[str]:
        """Let time pass.

        Args:
            seconds: How long.
            grows: What grows, by how much each second.
            silent: Partitions without a status.
            only: Partitions that `fields` are of; None: of all.
            fields: Fields that are so from now on. A snapshot that is not given is always new. `relay_stands`: the
                relay brings nothing over.

        Returns:
            What was said, as `+35 lag 0 open`: when, seconds from the beginning of this call.
        """
        self.relay_stands = fields.pop("relay_stands", self.relay_stands)
        begun, before = self.now, len(self.said)
        while self.now < begun + seconds:
            self.now += STEP
            for partition, status in self.statuses.items():
                if partition in silent:
                    continue
                mine = only is None or partition in only
                growth = grows if mine else LABELLED
                values = {name: getattr(status, name) + int(STEP) * more for name, more in growth.items()}
                fresh = SnapshotFacts(
                    name="s",
                    offset=values.get("offset", status.offset),
                    time=self.now,
                    bytes=1,
                    pause_seconds=0.0,
                    seconds=0.0,
                )
                values |= {"time": self.now, "snapshot": fresh} | (fields if mine else {})
                self.statuses[partition] = replace(status, **values)
                self.publish(self.statuses[partition])
            end = self.standing.end + int(STEP) * RELAYED_A_SECOND
            self.standing = Standing(self.standing.next_offset if self.relay_stands else end, 0, end)
            self.pipeline.take_relay({RELAYED: self.standing}, self.now)
            self.look()
        return [told(incident, begun) for incident in self.said[before:]]

    def publish(self, status: Status) -> None:
        self._put("status", record(status))

    def look(self) -> list[Incident]:
        found = self.watchdogs.look(self.pipeline, self.now)
        self.said += found
        if self.delivers:
            for incident in found:
                self.deliver(incident)
        return found

    def deliver(self, incident: Incident) -> None:
        """Let an incident come back from the alerts topic."""
        self._put("alerts", record(incident))

    def _put(self, kind: Any, value: bytes) -> None:
        applied = self.pipeline.apply(kind, 0, self._written[kind], value, seen_at=self.now)
        assert applied != "unreadable", self.pipeline.last_unreadable
        self._written[kind] += 1


def told(incident: Incident, begun: float) -> str:
    return f"+{incident.time - begun:.0f} {incident.incident} {incident.partition} {incident.state}"
