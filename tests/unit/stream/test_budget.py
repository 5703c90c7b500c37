from __future__ import annotations

import random

import pytest

from stream.budget import PARTS, DeadLetterBudget, RecentDeadLetters, headers_of
from stream.records import Output


def recent(most: int, window_seconds: float = 60.0) -> RecentDeadLetters:
    return RecentDeadLetters(DeadLetterBudget(most=most, window_seconds=window_seconds))


def test_as_many_as_the_budget_are_borne_and_one_more_is_not() -> None:
    letters = recent(10)

    assert not letters.add(10, now=0.0)
    assert letters.add(1, now=59.0)


def test_a_budget_of_0_bears_none() -> None:
    assert recent(0).add(1, now=0.0)


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    letters = recent(10)
    letters.add(10, now=0.0)

    assert not letters.add(10, now=60.0)
    assert letters.count == 10


def test_a_trickle_below_the_budget_never_adds_up() -> None:
    letters = recent(10)

    assert not any(letters.add(1, now=6.5 * i) for i in range(1_000))


@pytest.mark.parametrize("seed", range(5))
def test_the_count_is_that_of_the_window_but_for_a_part_of_it(seed: int) -> None:
    rng = random.Random(seed)
    letters = recent(1_000_000)
    came: list[tuple[float, int]] = []
    now = 0.0
    for _ in range(2_000):
        now += rng.choice([0.001, 0.1, 1.0, 30.0])
        came.append((now, rng.randint(1, 5)))

        letters.add(came[-1][1], now)

        assert len(letters._parts) <= PARTS + 1
        least = sum(count for at, count in came if now - at < 60.0 - 60.0 / PARTS)
        most = sum(count for at, count in came if now - at < 60.0)
        assert least <= letters.count <= most


def test_a_dead_letter_is_found_where_it_stood_whatever_headers_its_record_had() -> None:
    ours = (("headrace.position", b"clicks[0]@7"),)
    sent = [
        (0, [Output("predictions", None, b"{}", None), Output("dead_letters", None, b"", ours)]),
        (1, [Output("dead_letters", None, b"", (("headrace.position", b"\xff"), ("x", None), *ours))]),
        (2, [Output("alerts", None, b"{}", None)]),
    ]

    assert headers_of(sent, "headrace.position") == ["clicks[0]@7"] * 2
