from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors import LABEL_COUNTS, Status, add_histograms, delay_histogram, label_health, labels_that_came
from monitors.labels import DELAY_BOUNDS

COUNTS = st.fixed_dictionaries({name: st.integers(0, 10**9) for name in LABEL_COUNTS})
DELAYS = st.lists(st.floats(-1e12, 1e12), max_size=50)


def test_the_counters_are_those_of_a_status_in_its_order() -> None:
    names = [name for name in Status.__dataclass_fields__ if name in LABEL_COUNTS]

    assert names == list(LABEL_COUNTS)


def test_coverage_is_of_the_questions_whose_wait_is_over() -> None:
    health = label_health({"questions": 200, "pending": 100, "joined": 75, "expired": 25})

    assert (health["coverage"], health["expired"]) == (0.75, 0.25)


def test_an_early_label_that_was_joined_came_once() -> None:
    counts = {"joined": 8, "early": 3, "early_waiting": 1, "unmatched": 1}

    assert labels_that_came(counts) == 10
    assert label_health(counts)["early"] == 0.3


def test_without_anything_there_are_no_shares() -> None:
    assert set(label_health({}).values()) == {None}


@given(COUNTS)
def test_shares_are_between_0_and_1_and_those_of_the_questions_are_1_together(counts: dict[str, int]) -> None:
    counts["early"] = min(counts["early"], labels_that_came(counts))

    health = label_health(counts)

    assert all(share is None or 0.0 <= share <= 1.0 for share in health.values())
    coverage, expired = health["coverage"], health["expired"]
    assert (coverage is None) == (counts["joined"] + counts["expired"] == 0)
    if coverage is not None and expired is not None:
        assert coverage + expired == pytest.approx(1.0)


@given(DELAYS)
def test_every_delay_is_in_the_first_bin_that_is_not_below_it(delays: list[float]) -> None:
    found = delay_histogram(delays)

    if found is None:
        assert delays == []
        return
    assert sum(found["counts"]) == len(delays)
    for number, bound in enumerate(DELAY_BOUNDS):
        assert sum(found["counts"][: number + 1]) == sum(delay <= bound for delay in delays)


@given(DELAYS, DELAYS)
def test_histograms_of_partitions_add_up_to_that_of_all(one: list[float], other: list[float]) -> None:
    parts = [found for delays in (one, other) if (found := delay_histogram(delays)) is not None]

    assert add_histograms(parts) == delay_histogram([*one, *other])


def test_a_histogram_with_other_bins_is_left_out() -> None:
    mine = {"bounds": [0.0, 1.0], "counts": [1.0, 2.0, 3.0]}
    other = {"bounds": [0.0], "counts": [9.0, 9.0]}

    assert add_histograms([mine, other]) == mine


def test_a_label_that_came_first_and_one_at_once_are_in_the_first_bin() -> None:
    found = delay_histogram([-5.0, 0.0])

    assert found is not None
    assert found["counts"][0] == 2
    assert bisect_left(DELAY_BOUNDS, 0.0) == 0
