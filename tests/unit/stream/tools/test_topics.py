from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stream.settings import Settings
from stream.tools.cluster import TopicFacts
from stream.tools.topics import ANY_AGE, log_configs, output_configs, topic_items

WEEK = 7 * 86_400_000


def settings(**topics: object) -> Settings:
    return Settings.model_validate(
        {
            "name": "p",
            "task": "binary",
            "topics": {"events": "clicks", **topics},
            "learner": {"use": "logistic-regression"},
        }
    )


def facts(name: str, **configs: object) -> TopicFacts:
    """A topic with Kafka's defaults; `max_message_bytes=5` sets max.message.bytes."""
    defaults = {
        "cleanup.policy": "delete",
        "retention.ms": str(WEEK),
        "max.message.bytes": "1048588",
        "message.timestamp.type": "CreateTime",
        "message.timestamp.before.max.ms": ANY_AGE,
        "message.timestamp.after.max.ms": "3600000",
    }
    given = {key.replace("_", "."): str(value) for key, value in configs.items()}
    return TopicFacts(name=name, partitions=2, replication_factor=1, topic_id="x", configs=defaults | given)


def good() -> dict[str, TopicFacts]:
    """All topics as `topics create` makes them."""
    events = facts("clicks")
    found = {"clicks": events}
    for purpose in ("predictions", "alerts", "dead_letters", "status"):
        name = f"p.{purpose.replace('_', '-')}"
        made = facts(name)
        found[name] = replace(made, configs={**made.configs, **output_configs(purpose, events)})
    return found


def only(found: dict[str, TopicFacts]) -> Any:
    """The one item that is not ok."""
    items = [item for item in topic_items(settings(), found) if item.state != "ok"]
    assert len(items) == 1, items
    return items[0]


def test_topics_as_they_are_made_have_no_problem() -> None:
    items = topic_items(settings(), good())

    assert [item.state for item in items] == ["ok"] * 5


def test_a_missing_topic_fails_and_names_the_command_that_makes_it() -> None:
    found = good()
    del found["p.alerts"]

    item = only(found)

    assert item.state == "failed"
    assert item.remedy == "headrace topics create settings.toml"


def test_the_outcomes_topic_is_looked_at_when_the_settings_name_it() -> None:
    items = topic_items(settings(outcomes="p.outcomes"), good())

    assert [item.item for item in items if item.state == "failed"] == ["topic p.outcomes"]


def test_a_bound_in_bytes_is_told_beside_the_one_in_time() -> None:
    found = good() | {"clicks": facts("clicks", retention_ms=-1, retention_bytes=5_000_000)}
    (text,) = (item.text for item in topic_items(settings(), found) if item.item == "topic clicks")
    assert text.startswith("events, 2 partitions, kept for ever, but at most 5,000,000 bytes a partition (")
    assert "which must still be there" in text


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_compacted_events_are_refused_and_never_configured_by_us(policy: str) -> None:
    found = good() | {"clicks": facts("clicks", cleanup_policy=policy)}

    item = only(found)

    assert item.state == "failed"
    assert "a replay would not see" in item.text
    assert "--configure" not in item.remedy


def test_another_number_of_partitions_than_the_events_fails() -> None:
    found = good()
    found["p.alerts"] = replace(found["p.alerts"], partitions=3)

    item = only(found)

    assert item.state == "failed"
    assert "has 3 partitions and clicks has 2" in item.text


@pytest.mark.parametrize(
    ("bytes_taken", "state"), [(1_048_588, "failed"), (2_000_000, "warning"), (100_000_000, "ok")]
)
def test_the_dead_letter_topic_must_take_the_largest_event_and_better_what_it_unpacks_to(
    bytes_taken: int, state: str
) -> None:
    found = good()
    found["p.dead-letters"] = facts("p.dead-letters", max_message_bytes=bytes_taken)

    states = {item.item: item.state for item in topic_items(settings(), found)}

    assert states["topic p.dead-letters"] == state


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("message_timestamp_type", "LogAppendTime"),
        ("message_timestamp_before_max_ms", "1000"),
        ("message_timestamp_after_max_ms", "1000"),
        ("cleanup_policy", "compact"),
    ],
)
def test_an_output_that_would_refuse_or_lose_records_fails_and_says_what_to_set(
    setting: str, value: str
) -> None:
    found = good()
    found["p.predictions"] = facts("p.predictions", **{setting: value})

    item = only(found)

    assert item.state == "failed"
    assert list(item.fix) == [setting.replace("_", ".")]
    assert item.fix[setting.replace("_", ".")] in item.remedy


def test_outputs_kept_for_less_time_than_the_events_are_a_warning() -> None:
    found = good() | {"p.predictions": facts("p.predictions", retention_ms=WEEK - 1)}

    assert only(found).state == "warning"


def test_outputs_kept_for_ever_are_fine() -> None:
    found = good() | {"p.predictions": facts("p.predictions", retention_ms=-1)}

    assert {item.state for item in topic_items(settings(), found)} == {"ok"}


def test_outputs_of_events_kept_for_ever_should_be_kept_for_ever() -> None:
    found = good() | {"clicks": facts("clicks", retention_ms=-1)}

    items = [item for item in topic_items(settings(), found) if item.state != "ok"]

    assert {item.item for item in items} == {"topic p.predictions", "topic p.alerts", "topic p.dead-letters"}
    assert {item.fix["retention.ms"] for item in items} == {"-1"}


def test_a_status_topic_kept_for_an_hour_is_a_warning() -> None:
    found = good() | {"p.status": facts("p.status", retention_ms=3_600_000)}

    item = only(found)

    assert item.state == "warning"
    assert item.fix == {"retention.ms": str(WEEK)}


def test_outputs_take_the_retention_and_the_timestamps_of_the_events_and_any_age() -> None:
    events = facts("clicks", retention_ms=5, message_timestamp_after_max_ms=7)

    configs = output_configs("predictions", events)

    assert configs["retention.ms"] == "5"
    assert configs["message.timestamp.after.max.ms"] == "7"
    assert configs["message.timestamp.before.max.ms"] == ANY_AGE


def test_no_setting_is_sent_to_a_broker_that_does_not_know_it() -> None:
    old = TopicFacts(
        name="clicks", partitions=1, replication_factor=1, topic_id="x", configs={"retention.ms": "5"}
    )

    assert "message.timestamp.before.max.ms" not in output_configs("predictions", old)


# Topics that are relayed ------------------------------------------------------------------------------------------


def relayed(events: TopicFacts, **sources: TopicFacts) -> dict[str, str]:
    """State and text by topic, for a pipeline that relays `cards` and the labels `refunds`."""
    own = Settings.model_validate(
        {
            "name": "p",
            "task": "binary",
            "topics": {"events": "clicks"},
            "labels": {"topic": "refunds"},
            "relay": {"events": ["cards"]},
            "learner": {"use": "logistic-regression"},
        }
    )
    found = good() | {"clicks": events} | sources
    return {
        item.item.removeprefix("topic "): f"{item.state}: {item.text} {item.remedy}".strip()
        for item in topic_items(own, found)
        if item.item.removeprefix("topic ") in ("clicks", "cards", "refunds")
    }


def test_topics_that_fit_say_what_comes_from_them() -> None:
    said = relayed(facts("clicks"), cards=facts("cards"), refunds=facts("refunds"))

    assert said["cards"] == "ok: events to be relayed, 2 partitions, kept 7 days."
    assert said["refunds"] == "ok: labels to be relayed, 2 partitions, kept 7 days."
    assert said["clicks"].startswith("ok: events, 2 partitions")


def test_a_topic_of_others_that_is_missing_is_not_to_be_made_by_us() -> None:
    said = relayed(facts("clicks"), cards=facts("cards"))

    assert said["refunds"].startswith("failed: there is no such topic (labels to be relayed).")
    assert "name the right one in [labels] topic" in said["refunds"]


def test_a_source_that_is_compacted_is_a_warning_since_labels_may_be_gone_before_they_are_read() -> None:
    compacted = facts("refunds", cleanup_policy="compact")

    said = relayed(facts("clicks"), cards=facts("cards"), refunds=compacted)["refunds"]

    assert said.startswith(
        "warning: labels to be relayed, 2 partitions, kept 7 days; cleanup.policy is compact"
    )


def test_partitions_that_do_not_match_fail() -> None:
    three = replace(facts("refunds"), partitions=3)

    assert (
        "it has 3 partitions and clicks has 2"
        in relayed(facts("clicks"), cards=facts("cards"), refunds=three)["refunds"]
    )


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ({"retention_ms": 1_000}, "warning: it is kept 1 second and what is relayed into it 7 days"),
        ({"max_message_bytes": 1_000}, "warning: it takes 1,000 bytes a record, and what is relayed"),
        ({"message_timestamp_type": "LogAppendTime"}, "warning: message.timestamp.type is LogAppendTime"),
        (
            {"message_timestamp_before_max_ms": 5},
            "failed: message.timestamp.before.max.ms is 5; expected no limit",
        ),
    ],
)
def test_an_events_topic_that_would_not_keep_or_take_what_is_relayed_is_told(
    configs: dict[str, Any], said: str
) -> None:
    found = relayed(facts("clicks", **configs), cards=facts("cards"), refunds=facts("refunds"))

    assert found["clicks"].startswith(said)


def test_a_log_of_our_own_takes_and_keeps_all_that_its_sources_have() -> None:
    sources = [
        facts("a", retention_ms=5, max_message_bytes=10),
        facts("b", retention_ms=7, max_message_bytes=20),
    ]

    configs = log_configs(sources)

    assert configs["retention.ms"] == "7"
    assert int(configs["max.message.bytes"]) > 20
    assert log_configs([*sources, facts("c", retention_ms=-1)])["retention.ms"] == "-1"
