"""A queue of segments is a plain list that is searched from one end to the other, whatever is done to it."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stream.keyed import NEVER, FrozenQueue, KeyedQueue
from tests.helpers import canonical
from tests.unit.stream.test_keyed import write

KEYS = st.integers(0, 60).map(str)
#: Few times, so that many are equal.
TIMES = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 7.0, 1e9])


class Queues(RuleBasedStateMachine):
    """One of small segments beside a list."""

    @initialize(segment_items=st.sampled_from([4, 8, 13]))
    def begin(self, segment_items: int) -> None:
        self.queue = KeyedQueue(segment_items)
        self.naive: list[tuple[str, float, Any]] = []
        self.added = 0
        self.clock = 0.0
        self.store: dict[str, bytes] = {}
        #: A snapshot that is not yet written, and what it must hold.
        self.frozen: FrozenQueue | None = None
        self.then: list[tuple[str, float, Any]] = []

    def _add(self, key: str, time: float) -> None:
        if any(key == other for other, _, _ in self.naive):
            return
        self.added += 1
        item = (self.added, {"x": time, "y": None})
        self.queue.add(key, time, item)
        self.naive.append((key, time, item))

    @rule(key=KEYS, time=TIMES)
    def add(self, key: str, time: float) -> None:
        self._add(key, time)

    @rule(count=st.integers(1, 20), step=st.sampled_from([0.0, 0.5, -0.5]))
    def add_many(self, count: int, step: float) -> None:
        """As they come: each as old as the one before, or newer, or older."""
        for _ in range(count):
            self.clock += step
            self._add(f"n{self.added}", self.clock)

    @rule(key=KEYS)
    def take(self, key: str) -> None:
        self._take(key)

    def _take(self, key: str) -> None:
        found = [entry for entry in self.naive if entry[0] == key]
        assert self.queue.get(key) == (found[0][2] if found else None)
        assert self.queue.take(key) == (found[0][2] if found else None)
        if found:
            self.naive.remove(found[0])

    @precondition(lambda self: self.naive)
    @rule(data=st.data(), count=st.integers(1, 12))
    def take_some_that_are_there(self, data: st.DataObject, count: int) -> None:
        for _ in range(min(count, len(self.naive))):
            self._take(self.naive[data.draw(st.integers(0, len(self.naive) - 1))][0])

    @precondition(lambda self: self.naive)
    @rule(count=st.integers(1, 10))
    def pop(self, count: int) -> None:
        for _ in range(min(count, len(self.naive))):
            oldest = min(self.naive, key=lambda entry: entry[1])  # the first of equals
            assert self.queue.pop_oldest() == oldest
            self.naive.remove(oldest)

    @rule()
    def freeze(self) -> None:
        self.frozen, self.then = self.queue.freeze(), list(self.naive)

    @precondition(lambda self: self.frozen is not None)
    @rule(go_on=st.booleans())
    def write_and_open(self, go_on: bool) -> None:
        """What was frozen, perhaps long ago; and perhaps the next goes on from there, as after a crash."""
        assert self.frozen is not None
        manifest, files = write(self.frozen, self.store)
        self.frozen = None
        opened = KeyedQueue()
        opened.thaw(manifest, ((file, self.store[file.name]) for file in files))
        assert list(opened) == sorted(self.then, key=lambda entry: entry[1])
        if go_on:
            self.queue, self.naive = opened, self.then

    @invariant()
    def it_holds_what_the_list_holds(self) -> None:
        queue, naive = self.queue, self.naive
        assert len(queue) == len(naive)
        assert queue.oldest == min((time for _, time, _ in naive), default=NEVER)
        assert list(queue) == sorted(naive, key=lambda entry: entry[1])
        assert all(key in queue for key, _, _ in naive)

    @invariant()
    def it_is_equal_to_one_that_knows_nothing_of_its_past(self) -> None:
        fresh = KeyedQueue()
        for entry in sorted(self.naive, key=lambda entry: entry[1]):
            fresh.add(*entry)
        assert canonical(fresh) == canonical(self.queue)


def test_any_order_of_operations_and_snapshots_is_that_of_a_plain_list() -> None:
    run_state_machine_as_test(Queues, settings=settings(max_examples=60, stateful_step_count=40))
