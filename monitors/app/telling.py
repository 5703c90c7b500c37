"""Makes notices of a pipeline's alerts and hands them to its notification channels, each at least once."""

from __future__ import annotations

import math
from collections.abc import Mapping

from monitors.fleet.fleet import Applied, PipelineState, SeenAlert
from monitors.notify import Notice, Notifier
from monitors.records import Alert, Incident


def notice_of(pipeline: PipelineState, seen: SeenAlert) -> Notice:
    """What people are told of an alert or an incident."""
    facts, alert = pipeline.facts, seen.alert
    where = facts.events_topic if alert.partition is None else f"{facts.events_topic}[{alert.partition}]"
    if isinstance(alert, Incident):
        return Notice(
            pipeline=facts.name,
            severity=alert.severity,
            state=alert.state,
            key=f"{facts.name}/{'' if alert.partition is None else alert.partition}/{alert.incident}",
            title=f"{alert.incident}, {where}",
            subject=f"{alert.incident}, {facts.events_topic}",
            part=alert.partition,
            text=alert.text,
            time=alert.time,
            topic=facts.alerts_topic,
            partition=seen.partition,
            offset=seen.offset,
        )
    return Notice(
        pipeline=facts.name,
        severity=seen.severity,
        state="event",
        key=f"{facts.name}/{alert.partition}@{alert.offset}/{alert.watch}/{alert.detector}/{alert.kind}",
        title=f"{alert.kind} of {alert.watch} at {where}@{alert.offset}",
        text=_sentence(alert),
        time=alert.time,
        topic=facts.alerts_topic,
        partition=seen.partition,
        offset=seen.offset,
    )


def _sentence(alert: Alert) -> str:
    def figure(value: float | None) -> str:
        return "?" if value is None or not math.isfinite(value) else f"{value:.4g}"

    return (
        f"{alert.detector} saw the mean of {alert.watch} go from {figure(alert.mean_before)} to "
        f"{figure(alert.mean_after)}."
    )


class Teller:
    """Hands one pipeline's alerts to its channels, and knows up to where all of them are told.

    Records before the committed offset have been told by an earlier run: of those only what is open is remembered.

    Args:
        pipeline: Whose alerts.
        notifier: Its channels.
    """

    def __init__(self, pipeline: PipelineState, notifier: Notifier) -> None:
        self._pipeline = pipeline
        self.notifier = notifier
        #: By partition of the alerts topic: where an earlier run ended. None: not known yet.
        self._told: Mapping[int, int] | None = None
        #: Notices of history: what is remembered must come before what is offered.
        self._held: list[Notice] = []
        self._committed: dict[int, int] = {}

    @property
    def knows_where_to_begin(self) -> bool:
        """Whether `begin` was called."""
        return self._told is not None

    def begin(self, told: Mapping[int, int]) -> None:
        """Begin where an earlier run ended: the next offset of each partition of the alerts topic."""
        self._told = dict(told)
        self._committed = dict(told)

    def begin_again(self, partition: int) -> None:
        """The alerts topic was made anew: a partition's offsets start over, and all of them are news."""
        self._told = {**(self._told or {}), partition: 0}
        self._committed[partition] = 0
        self.notifier.begin_again(self._pipeline.facts.alerts_topic, partition)

    def told(self, partition: int) -> int:
        """The next offset of a partition of the alerts topic when this run began."""
        return (self._told or {}).get(partition, 0)

    def take(self, partition: int, offset: int, applied: Applied, *, live: bool) -> None:
        """A record of the alerts topic was taken in."""
        topic = self._pipeline.facts.alerts_topic
        before = self.told(partition)
        seen = self._pipeline.taken
        if applied not in ("alert", "incident") or seen is None:
            if offset >= before:
                self.notifier.skip(topic, partition, offset)
            return
        notice = notice_of(self._pipeline, seen)
        if offset < before:
            self.notifier.remember(notice)
        elif live:
            self.notifier.offer(notice)
        else:
            self._held.append(notice)

    def history_is_read(self) -> None:
        """All records that were there are taken in: tell what is new among them."""
        held, self._held = self._held, []
        for notice in held:
            self.notifier.offer(notice)

    def to_commit(self, *, again: bool = False) -> dict[int, int]:
        """By partition the next offset before which all is told, where that has moved.

        Args:
            again: Also where it has not: brokers forget what was not committed for long.
        """
        topic = self._pipeline.facts.alerts_topic
        moved = {
            partition: offset
            for (of, partition), offset in self.notifier.settled().items()
            if of == topic and offset > self._committed.get(partition, 0)
        }
        return {**self._committed, **moved} if again else moved

    def committed(self, offsets: Mapping[int, int]) -> None:
        """These are kept."""
        self._committed |= offsets
