from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from stream.errors import ConfigError, EnvironmentRefused
from stream.log import Committed
from stream.relay.log import Place
from stream.relay.places import UNTOLD, RelayMetadata, check_partitions, choose_beginning, lost_of
from tests.unit.stream.relay.memory import relay_settings

PLACE = Place("a", 1)


def beginning(committed: Committed | None = None, **changes: Any) -> int:
    given: dict[str, Any] = {
        "topic_id": "a-id",
        "events_id": "log-id",
        "first": 10,
        "end": 90,
        "at": lambda moment: 77,
        "relayed": None,
        "lost": None,
    }
    settings = relay_settings(**changes.pop("sections", {}))
    return choose_beginning(settings, PLACE, committed, **given | changes)


def commit(offset: int, **fields: Any) -> Committed:
    known: dict[str, Any] = {"topic_id": "a-id", "events_id": "log-id", "writer": "w"}
    return Committed(offset, RelayMetadata(**known | fields).encode())


@pytest.mark.parametrize(
    ("start", "offset"), [("earliest", 10), ("latest", 90), (datetime(2026, 1, 31, tzinfo=UTC), 77)]
)
def test_a_new_relay_begins_where_the_settings_say(start: Any, offset: int) -> None:
    assert beginning(sections={"topics": {"events": "log", "start": start}}) == offset


@pytest.mark.parametrize("relayed", [None, UNTOLD])
def test_a_partition_that_was_added_begins_with_its_first_record(relayed: Any) -> None:
    sections = {"topics": {"events": "log", "start": "latest"}}
    assert beginning(is_added=True, relayed=relayed, sections=sections) == 10
    with pytest.raises(EnvironmentRefused, match="the last from offset 41"):
        beginning(is_added=True, relayed=41, sections=sections)


@pytest.mark.parametrize("offset", [10, 50, 90])
def test_it_goes_on_where_it_stopped_wherever_a_new_one_would_begin(offset: int) -> None:
    assert beginning(commit(offset), lost="latest") == offset


LOST = {
    "deleted": (commit(9), "begins at 10: 1 offsets were deleted before they were relayed"),
    "cut off": (commit(91), "the log ends at 90: records were lost"),
    "foreign": (Committed(50, "kafka-consumer-groups"), "that the relay did not write"),
    "other log": (commit(50, events_id="other"), "log was deleted and made anew"),
    "other source": (commit(50, topic_id="other"), "the topic was deleted and made anew"),
}


@pytest.mark.parametrize("case", LOST)
def test_a_place_that_is_lost_is_refused_and_the_operator_says_where_to_go_on(case: str) -> None:
    committed, words = LOST[case]

    with pytest.raises(EnvironmentRefused) as caught:
        beginning(committed)

    assert str(caught.value).startswith("a[1]: ")
    assert words in str(caught.value)
    assert "headrace relay settings.toml --from relayed" in str(caught.value)
    assert beginning(committed, lost="earliest") == 10
    assert beginning(committed, lost="latest") == 90
    assert beginning(committed, lost="relayed", relayed=41) == 42
    assert beginning(committed, lost="relayed") == 10
    assert beginning(committed, lost="relayed", relayed=3) == 10


def test_a_log_that_ends_before_what_was_relayed_is_another_one() -> None:
    committed = commit(91)
    assert beginning(committed, lost="relayed", relayed=89) == 90
    with pytest.raises(EnvironmentRefused, match=r"Its log ends at 90, .* --from earliest or latest"):
        beginning(committed, lost="relayed", relayed=90)


def test_offsets_that_are_lost_are_not_begun_anew_behind_what_was_relayed() -> None:
    with pytest.raises(EnvironmentRefused, match="the last from offset 41: the group's offsets were lost"):
        beginning(None, relayed=41)


@pytest.mark.parametrize("lost", [None, "relayed"])
def test_a_relay_that_can_not_tell_whether_there_was_one_before_does_not_begin_anew(lost: Any) -> None:
    with pytest.raises(EnvironmentRefused, match="none of the newest records of log was relayed from it"):
        beginning(None, relayed=UNTOLD, lost=lost)

    assert beginning(None, relayed=UNTOLD, lost="earliest") == 10
    assert beginning(None, relayed=UNTOLD, lost="latest") == 90


def test_a_relay_waits_for_a_merge_whatever_the_operator_says() -> None:
    with pytest.raises(EnvironmentRefused, match=r"Let it finish: headrace merge settings\.toml"):
        beginning(commit(50, merging=True), lost="latest")


def test_where_to_go_on_is_one_of_three_words() -> None:
    assert lost_of("latest") == "latest"
    with pytest.raises(ConfigError, match="--from: is 'x'; expected one of relayed, earliest, latest"):
        lost_of("x")


@pytest.mark.parametrize("counts", [{"a": 4, "labels": 4}, {"a": 4, "labels": 4, "other": 1}])
def test_as_many_partitions_everywhere_are_right(counts: dict[str, int]) -> None:
    check_partitions(relay_settings(), counts, 4)


def test_one_partition_takes_any_number() -> None:
    check_partitions(relay_settings(), {"a": 12, "labels": 5}, 1)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (
            {"a": 3, "labels": 4},
            "make a topic of 3 partitions for the labels and write to it with the key and",
        ),
        ({"a": 2, "labels": 3}, "topic 'a': it has 2 partitions and log has 3; expected the same number"),
        ({"labels": 3}, "no topic 'a' at 127.0.0.1:9092, which [relay] events names. It is yours to make"),
    ],
)
def test_partitions_that_do_not_fit_are_refused_with_what_to_do(counts: dict[str, int], words: str) -> None:
    with pytest.raises(EnvironmentRefused) as caught:
        check_partitions(relay_settings(), counts, 3)

    assert words in str(caught.value)
