from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stream.errors import ConfigError
from stream.tools.cluster import time_of
from stream.tools.reset import Loss, start_of


def loss(**fields: Any) -> str:
    return str(
        Loss(**({"partition": 3, "committed": 50, "origin": 50, "learned": 1_234, "snapshots": 3} | fields))
    )


def test_a_loss_says_what_goes_and_where_it_goes_on() -> None:
    assert loss() == (
        "partition 3: loses a learner of 1,234 labels, its metrics, detectors and pending predictions, 3 snapshots; "
        "goes on at 50, where it stopped."
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"origin": 20},
            "; begins at 20: the events up to 50 are predicted a second time, and readers see both",
        ),
        ({"origin": 2_050}, "; begins at 2,050: the 2,000 events before are never predicted."),
        ({"committed": None}, "; begins at 50; nothing is committed."),
        ({"learned": None}, "loses a learner that no snapshot tells of, its metrics"),
        ({"snapshots": 1}, "pending predictions, 1 snapshot;"),
        ({"snapshots": 0}, "pending predictions, 0 snapshots;"),
    ],
)
def test_each_kind_of_loss_has_its_words(fields: dict[str, Any], words: str) -> None:
    assert words in loss(**fields)


def test_a_beginning_is_a_word_or_a_time_with_its_zone() -> None:
    assert [start_of(word) for word in ("committed", "earliest", "latest")] == [
        "committed",
        "earliest",
        "latest",
    ]
    assert start_of("2026-01-31T01:00:00+01:00") == datetime(2026, 1, 31, tzinfo=UTC)
    assert time_of("2026-01-31T00:00:00Z", "--from") == datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "now", "Latest", "2026-01-31", "2026-01-31T00:00:00", "1700000000", "-1"]
)
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        start_of(text)

    assert str(refusal.value) == (
        f"--from: is {text!r}; expected committed, earliest, latest or a time with its zone, such as "
        "2026-01-31T00:00:00Z."
    )
    with pytest.raises(ConfigError, match=r"expected a time with its zone"):
        time_of(text, "--from")
