"""When somebody is told that something is wrong with labels."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.incidents import LabelBounds, LabelWatch

BOUNDS = LabelBounds(capacity=1_000)
STEP = 5.0


class Partition:
    """Counters that grow, looked at every few seconds."""

    def __init__(self) -> None:
        self.watch = LabelWatch(BOUNDS)
        self.counts = {"pending": 0, "joined": 0, "unmatched": 0, "expired_early": 0, "early_waiting": 0}
        self.predictions = self.duplicates = 0
        self.now = 0.0
        self.texts: dict[str, str] = {}
        self.look()

    def look(self, seconds: float = STEP, **grown: int) -> list[tuple[str, str]]:
        """Let time pass and counters grow, look, and say what was told but for what is as it was at the start."""
        self.now += seconds
        self.predictions += grown.pop("predictions", 0)
        self.duplicates += grown.pop("duplicates", 0)
        self.counts["pending"] = grown.pop("pending", self.counts["pending"])
        for name, count in grown.items():
            self.counts[name] += count
        told = self.watch.look(
            self.counts, predictions=self.predictions, duplicates=self.duplicates, now=self.now
        )
        self.texts |= {item.incident: item.text for item in told}
        return [(item.incident, item.state) for item in told]

    def looks(self, seconds: float, **grown: int) -> list[tuple[str, str]]:
        return [told for _ in range(int(seconds / STEP)) for told in self.look(**grown)]


@pytest.fixture
def partition() -> Partition:
    found = Partition()
    found.looks(60.0, joined=20, predictions=200)  # all is well, and said to be
    return found


def test_while_all_is_well_nothing_is_told_again(partition: Partition) -> None:
    assert partition.looks(7_200.0, joined=20, predictions=200) == []


def test_predictions_without_room_are_told_once_as_long_as_it_lasts(partition: Partition) -> None:
    assert partition.look(pending=1_000, expired_early=1) == [("pending-full", "open")]
    assert partition.looks(3_600.0, expired_early=7) == []

    text = partition.texts["pending-full"]
    assert "than [labels] capacity, 1,000, allows: the oldest expire before their time (1 so far)" in text
    assert "raise capacity" in text


def test_there_is_room_again_when_a_tenth_was_free_for_five_minutes(partition: Partition) -> None:
    partition.look(pending=1_000, expired_early=1)

    assert partition.looks(290.0, pending=500) == []
    assert partition.look(2 * STEP) == [("pending-full", "closed")]
    assert partition.looks(3_600.0) == []
    assert partition.look(pending=1_000, expired_early=1) == [("pending-full", "open")]


def test_a_partition_that_is_nearly_full_goes_on_being_told_of(partition: Partition) -> None:
    partition.look(pending=1_000, expired_early=1)

    assert partition.looks(3_600.0, pending=901) == []


def test_labels_without_a_question_are_told_with_the_usual_cause(partition: Partition) -> None:
    told = partition.looks(600.0, joined=5, unmatched=5)

    assert told == [("labels-unmatched", "open")]
    text = partition.texts["labels-unmatched"]
    assert "different partitioners or keys" in text
    assert "murmur2" in text


def test_a_few_labels_without_a_question_are_borne(partition: Partition) -> None:
    assert partition.looks(7_200.0, joined=95, unmatched=5) == []


def test_labels_that_find_their_questions_again_close_it(partition: Partition) -> None:
    partition.looks(600.0, joined=5, unmatched=5)

    assert partition.looks(1_200.0, joined=10) == [("labels-unmatched", "closed")]


def test_labels_that_stay_away_do_not_close_it(partition: Partition) -> None:
    partition.looks(600.0, joined=5, unmatched=5)

    assert partition.looks(86_400.0) == []


def test_labels_that_come_all_at_once_are_told_of(partition: Partition) -> None:
    assert partition.look(3_600.0, unmatched=10_000) == [("labels-unmatched", "open")]


def test_ids_that_repeat_are_told_with_what_may_be_wrong_with_them(partition: Partition) -> None:
    assert partition.looks(600.0, predictions=10, duplicates=90) == [("ids-repeat", "open")]
    assert "not one event's own" in partition.texts["ids-repeat"]
    assert partition.looks(1_200.0, predictions=100) == [("ids-repeat", "closed")]


def test_a_producer_that_sends_a_few_twice_is_borne(partition: Partition) -> None:
    assert partition.looks(7_200.0, predictions=90, duplicates=10) == []


def test_what_was_counted_before_the_first_look_is_not_told() -> None:
    watch = LabelWatch(BOUNDS)
    counts = {"pending": 1_000, "unmatched": 10**6, "expired_early": 10**6}

    for second in range(0, 3_600, 5):
        for told in watch.look(counts, predictions=1, duplicates=10**6, now=float(second)):
            assert told.state == "closed"


def test_memory_is_bounded_by_the_window(partition: Partition) -> None:
    partition.looks(36_000.0, joined=1)

    assert len(partition.watch._looks) <= BOUNDS.window_seconds / STEP + 2


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "seconds": st.sampled_from([0.0, 5.0, 90.0, 1_000.0]),
                "pending": st.integers(0, 1_000),
                "joined": st.integers(0, 50),
                "unmatched": st.integers(0, 50),
                "expired_early": st.integers(0, 3),
                "predictions": st.integers(0, 300),
                "duplicates": st.integers(0, 300),
            }
        ),
        max_size=60,
    )
)
def test_of_each_kind_open_and_closed_take_turns(steps: list[dict[str, int]]) -> None:
    partition = Partition()

    told = [item for step in steps for item in partition.look(**step)]

    for incident in ("pending-full", "labels-unmatched", "ids-repeat"):
        states = [state for name, state in told if name == incident]
        assert all(one != other for one, other in itertools.pairwise(states))
