from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from stream.pending import PendingPredictions, Question

Operation = tuple[Literal["add", "take", "expire"], int | str, float]

#: Few ids and few times, so that they meet; an id as a number and as text is one id.
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "expire"]),
        st.sampled_from([1, "1", 2, "3", "4"]),
        st.sampled_from([-10.0, 0.0, 1.0, 4.9, 5.0, 5.1, 9.0, 20.0]),
    ),
    max_size=60,
)


class NaivePending:
    """A list, searched from one end to the other."""

    def __init__(self, expire_after_seconds: float, capacity: int) -> None:
        self.expire_after_seconds = expire_after_seconds
        self.capacity = capacity
        self.expired = 0
        self.waiting: list[tuple[str, Question]] = []

    def add(self, event_id: int | str, question: Question) -> bool:
        if any(name == str(event_id) for name, _ in self.waiting):
            return False
        if len(self.waiting) == self.capacity:
            self.waiting.remove(min(self.waiting, key=lambda item: (item[1].time, item[1].offset)))
            self.expired += 1
        self.waiting.append((str(event_id), question))
        return True

    def take(self, event_id: int | str) -> Question | None:
        for item in self.waiting:
            if item[0] == str(event_id):
                self.waiting.remove(item)
                return item[1]
        return None

    def expire(self, now: float) -> None:
        kept = [item for item in self.waiting if not item[1].time < now - self.expire_after_seconds]
        self.expired += len(self.waiting) - len(kept)
        self.waiting = kept


@given(operations=OPERATIONS, capacity=st.integers(1, 4))
def test_any_order_of_questions_answers_and_expiry_is_that_of_a_plain_list(
    operations: list[Operation], capacity: int
) -> None:
    pending = PendingPredictions(expire_after_seconds=5.0, capacity=capacity)
    naive = NaivePending(5.0, capacity)

    for offset, (operation, event_id, time) in enumerate(operations):
        question = Question(offset, time, {"a": 1.0}, None, None)
        match operation:
            case "add":
                assert pending.add(event_id, question) == naive.add(event_id, question)
            case "take":
                assert pending.take(event_id) == naive.take(event_id)
            case "expire":
                pending.expire(time)
                naive.expire(time)
        assert len(pending) == len(naive.waiting)
        assert pending.expired == naive.expired
        assert [name for name in "1234" if name in pending] == sorted(name for name, _ in naive.waiting)
