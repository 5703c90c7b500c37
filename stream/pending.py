"""Predictions that wait for their label."""

from __future__ import annotations

import heapq
from typing import NamedTuple

from stream.records import Features, Label, Scores

#: Heap entries whose question has left are swept once they outnumber those that wait by this factor.
SWEEP_FACTOR = 2
SWEEP_MINIMUM = 1_000


class Question(NamedTuple):
    """A prediction that was made and waits for its label."""

    #: Offset of the question in its partition.
    offset: int
    #: Event time, seconds since the epoch.
    time: float
    #: The features it was predicted on.
    x: Features
    #: The prediction; None if the learner made none.
    y_pred: Label | None
    #: Class → probability, or None.
    y_proba: Scores | None


class PendingPredictions:
    """Predictions waiting for their label, oldest first.

    A prediction leaves when its label arrives or after `expire_after_seconds` of *event* time,
    never wall-clock time, so a replay expires exactly what the first run expired.

    Args:
        expire_after_seconds: How long to wait. A label arriving later finds nothing.
        capacity: Most predictions held; at capacity the oldest expires early and is counted.

    Example:
        >>> pending = PendingPredictions(expire_after_seconds=60.0, capacity=10)
        >>> pending.add("a", Question(offset=0, time=100.0, x={"f": 1.0}, y_pred=True, y_proba=None))
        True
        >>> pending.expire(now=130.0)
        >>> pending.take("a").y_pred
        True
        >>> pending.take("a") is None
        True
    """

    __slots__ = ("_oldest_first", "by_id", "capacity", "expire_after_seconds", "expired")

    def __init__(self, *, expire_after_seconds: float, capacity: int) -> None:
        self.expire_after_seconds = expire_after_seconds
        self.capacity = capacity
        #: Questions that left without a label.
        self.expired = 0
        #: What waits, by id as text. For looking, not for changing.
        self.by_id: dict[str, Question] = {}
        self._oldest_first: list[tuple[float, int, str]] = []

    def __len__(self) -> int:
        return len(self.by_id)

    def __contains__(self, event_id: str | int) -> bool:
        return str(event_id) in self.by_id

    def add(self, event_id: str | int, question: Question) -> bool:
        """Keep a question; False, and nothing changed, if one with this id already waits."""
        key = str(event_id)
        if key in self.by_id:
            return False
        if len(self.by_id) >= self.capacity:
            self._expire_oldest()
        self.by_id[key] = question
        heapq.heappush(self._oldest_first, (question.time, question.offset, key))
        if len(self._oldest_first) > SWEEP_FACTOR * len(self.by_id) + SWEEP_MINIMUM:
            self._oldest_first = [(q.time, q.offset, key) for key, q in self.by_id.items()]
            heapq.heapify(self._oldest_first)
        return True

    def take(self, event_id: str | int) -> Question | None:
        """The question with this id, which leaves; None if there is none (any more: call `expire` first)."""
        return self.by_id.pop(str(event_id), None)

    def expire(self, now: float) -> None:
        """Let go of every question older than `expire_after_seconds` at event time `now`."""
        oldest = self._oldest_first
        limit = now - self.expire_after_seconds
        while oldest and oldest[0][0] < limit:
            _, offset, key = heapq.heappop(oldest)
            self._forget(key, offset)

    def _expire_oldest(self) -> None:
        before = len(self.by_id)
        while len(self.by_id) == before:
            _, offset, key = heapq.heappop(self._oldest_first)
            self._forget(key, offset)

    def _forget(self, key: str, offset: int) -> None:
        """Expire the question that this heap entry stands for, unless it has left or its id is another's by now."""
        question = self.by_id.get(key)
        if question is not None and question.offset == offset:
            del self.by_id[key]
            self.expired += 1
