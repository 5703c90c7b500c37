from __future__ import annotations

import pytest

from stream.pending import SWEEP_MINIMUM, PendingPredictions, Question


def question(offset: int, time: float) -> Question:
    return Question(offset=offset, time=time, x={"a": 1.0}, y_pred=True, y_proba={True: 1.0})


@pytest.fixture
def pending() -> PendingPredictions:
    return PendingPredictions(expire_after_seconds=60.0, capacity=3)


def test_a_question_leaves_once(pending: PendingPredictions) -> None:
    asked = question(0, 100.0)
    assert pending.add("a", asked)

    assert "a" in pending
    assert pending.take("a") is asked
    assert pending.take("a") is None
    assert len(pending) == 0
    assert pending.expired == 0


def test_an_id_may_be_a_number_in_the_question_and_text_in_the_answer(pending: PendingPredictions) -> None:
    pending.add(17, question(0, 100.0))

    assert "17" in pending
    assert pending.take("17") is not None


def test_a_question_whose_id_waits_already_changes_nothing(pending: PendingPredictions) -> None:
    first = question(0, 100.0)
    pending.add("a", first)

    assert not pending.add("a", question(1, 150.0))

    pending.expire(161.0)
    assert pending.take("a") is None
    assert pending.expired == 1


def test_a_question_expires_after_its_time_and_not_at_it(pending: PendingPredictions) -> None:
    pending.add("a", question(0, 100.0))

    pending.expire(160.0)
    assert "a" in pending

    pending.expire(160.1)
    assert "a" not in pending
    assert pending.expired == 1


def test_questions_expire_by_event_time_not_in_the_order_they_came(pending: PendingPredictions) -> None:
    pending.add("late", question(0, 200.0))
    pending.add("early", question(1, 100.0))

    pending.expire(170.0)

    assert "early" not in pending
    assert "late" in pending


def test_at_capacity_the_oldest_expires_early_and_is_counted(pending: PendingPredictions) -> None:
    for offset, (event_id, time) in enumerate([("a", 30.0), ("b", 10.0), ("c", 20.0), ("d", 40.0)]):
        assert pending.add(event_id, question(offset, time))

    assert [name for name in "abcd" if name in pending] == ["a", "c", "d"]
    assert pending.expired == 1
    assert len(pending) == 3


def test_an_id_asked_again_after_its_answer_does_not_expire_with_the_first(
    pending: PendingPredictions,
) -> None:
    pending.add("a", question(0, 100.0))
    pending.take("a")
    second = question(1, 150.0)
    pending.add("a", second)

    pending.expire(170.0)

    assert pending.expired == 0
    assert pending.take("a") is second


def test_memory_is_bounded_when_questions_are_answered_and_never_expire() -> None:
    pending = PendingPredictions(expire_after_seconds=1e9, capacity=10)
    for i in range(5 * SWEEP_MINIMUM):
        pending.add(i, question(i, float(i)))
        pending.take(i)

    assert len(pending._oldest_first) <= SWEEP_MINIMUM + 2
