"""The relay on a real broker: labels from a topic of their own, and many partitions into one log."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]  # kafka-python ships no types

from stream.broker import Broker
from stream.kafka.relay import KafkaRelay
from stream.relay.headers import relayed_for
from stream.relay.log import Place
from stream.relay.places import UNTOLD
from tests.conftest import create_topic
from tests.integration.commands import Command, headrace, headrace_json
from tests.integration.relaying import RelayCase, question, verdict
from tests.support import Incoming, wait_until, whole_seconds_ago

pytestmark = pytest.mark.integration


def test_labels_of_a_topic_of_their_own_are_joined(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    with RelayCase(broker, tmp_path, topic_name, partitions=2, labels=2) as case:
        case.send(question(n, n % 2) for n in range(200))
        case.send_to(case.labels, (verdict(n, n % 2) for n in range(200)))

        case.relay_to_end()
        case.run_to_end()

        assert case.assert_relayed_once() == 200
        assert case.assert_exactly_once() == 200
        statuses = case.statuses()
        assert {p: (s["joined"], s["learned"], s["dead_letters"]) for p, s in statuses.items()} == {
            0: (100, 100, 0),
            1: (100, 100, 0),
        }


def test_run_brings_many_partitions_and_their_labels_into_one_log_and_drains_them_first(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=2, sources=[3, 1]) as case:
        case.send_to(case.sources[0], (question(n, n % 3) for n in range(300)))
        case.send_to(case.sources[1], (question(n) for n in range(300, 400)))
        case.send_to(case.labels, (verdict(n, n % 2) for n in range(400)))

        worker = case.run_to_end()

        assert case.assert_relayed_once() == 800
        assert case.assert_exactly_once() == 400
        status = case.statuses()[0]
        assert (status["joined"], status["learned"], status["dead_letters"]) == (400, 400, 0)
        (ended,) = worker.logged("relay ended")
        assert ended["relayed_records"] == 800


@pytest.mark.full
def test_what_was_relayed_for_another_pipeline_is_ignored(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Two pipelines of one events topic, each with labels of its own."""
    with RelayCase(broker, tmp_path, topic_name, labels=1) as one:
        events: dict[str, Any] = {"topics": {"events": one.topic("events")}}
        with RelayCase(broker, tmp_path, f"{topic_name}-b", labels=1, partitions=0, **events) as other:
            other.partitions = 1
            other.create_topics(but=["events"])
            one.send(question(n) for n in range(50))
            one.send_to(one.labels, (verdict(n) for n in range(50)))
            other.send_to(other.labels, (verdict(n) for n in range(20)))

            one.relay_to_end()
            other.relay_to_end()
            for case, joined, ignored in ((one, 50, 20), (other, 20, 50)):
                case.run_to_end()
                status = case.statuses()[0]
                assert (status["joined"], status["ignored"], status["dead_letters"]) == (joined, ignored, 0)
                assert case.assert_exactly_once() == 50


@pytest.mark.full
def test_a_label_that_is_none_goes_to_the_dead_letters_and_can_be_replayed(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case:
        case.send([question(1)])
        case.send_to(case.labels, [verdict(1)._replace(value=b'{"tx": "e1"}', headers=(("trace", b"7"),))])
        case.run_to_end()
        (letter,) = case.read("dead_letters")[0]
        assert letter.headers[0] == ("trace", b"7")
        said = dict(letter.headers)
        assert said["headrace.relay.position"] == f"{case.labels}[0]@0".encode()
        assert b'no "verdict" ([labels] label)' in (said["headrace.message"] or b"")

        # As if the settings had named the wrong field: the same record is a label after all.
        case.change(labels=case.settings.labels.model_dump(exclude_unset=True) | {"label": "tx", "id": "x"})
        with Command(case, "dead-letters", "replay", str(case.settings_file), "--yes") as command:
            command.ends(0)
        replayed = case.read("events")[0][-1]
        assert dict(replayed.headers)["headrace.attempt"] == b"1"
        relayed = relayed_for(replayed.headers)
        assert relayed is not None
        assert relayed[1] == b"labels"


@pytest.mark.full
def test_offsets_lost_long_after_the_last_label_are_told_from_a_first_start(
    broker: Broker, tmp_path: Path, topic_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the newest records have none that was relayed, though the pipeline ran before."""
    monkeypatch.setattr("stream.kafka.relay.LOOKED_AT", 50)
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case:
        case.send(question(n) for n in range(100))
        relay = KafkaRelay(case.settings, "first")
        place = Place(case.labels, 0)
        assert relay.last_relayed([place]) == {}, "a first start, however long the log"
        relay.leave()
        case.send_to(case.labels, (verdict(n) for n in range(100)))
        case.run_to_end()
        relay = KafkaRelay(case.settings, "second")
        assert relay.last_relayed([place]) == {place: 99}
        case.send(question(n) for n in range(100, 200))
        assert relay.last_relayed([place]) == {place: UNTOLD}
        relay.leave()


def test_partitions_that_do_not_match_are_refused_with_the_remedy(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, partitions=3, labels=2) as case:
        with case.relay("--stop-at-end") as command:
            said = command.ends(3)
        assert "it has 2 partitions and" in said
        assert "make a topic of 3 partitions for the labels" in said

        assert f"topic {case.labels}" in headrace(case, "check", code=3)


def test_an_events_topic_is_made_with_the_partitions_of_its_labels_and_keeps_them_as_long(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Another number later would move keys; so without the labels topic it has to be said."""
    with RelayCase(broker, tmp_path, topic_name, partitions=0) as case:
        case.change(labels={"topic": case.labels})
        said = headrace(case, "topics", "create", code=3)
        assert f"Make {case.labels} first" in said
        assert "--partitions" in said

        create_topic(broker, case.labels, 3, **{"retention.ms": "-1"})
        made = headrace_json(case, "topics", "create")

        assert (made["partitions"], len(made["created"])) == (3, 5)
        items = headrace_json(case, "check")["items"]
        assert {item["state"] for item in items if item["item"].startswith("topic ")} == {"ok"}


def test_small_labels_are_no_batch_too_large_and_one_that_is_too_large_is_named(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """A broker refuses a whole batch that is larger than `max.message.bytes`, however small its records are."""
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case:
        with case.admin() as admin:
            admin.alter_configs(
                [
                    ConfigResource(
                        ConfigResourceType.TOPIC, case.topic("events"), configs={"max.message.bytes": "20000"}
                    )
                ]
            )
        case.send_to(case.labels, (verdict(n) for n in range(500)))
        case.relay_to_end()
        assert case.assert_relayed_once() == 500

        large = verdict(510)._replace(headers=(), value=b"x" * 30_000)
        case.send_to(case.labels, [verdict(501), large, verdict(502)])
        with case.relay("--stop-at-end") as command:
            said = command.ends(3)
        assert f"{case.labels}[0]@501: this record of 30,000 bytes can't be written" in said
        assert "Nothing is skipped" in said


@pytest.mark.full
def test_check_tells_of_a_place_that_may_be_lost_before_the_relay_refuses_it(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case:
        case.send([question(1)])
        case.send_to(case.labels, [verdict(1)])
        case.run_to_end()

        with case.admin() as admin:
            admin.delete_groups([f"{case.name}.relay"])
        assert "though the pipeline has begun. If it has relayed before, its place is lost" in headrace(
            case, "check"
        )
        with case.relay("--stop-at-end") as command:
            assert "--from relayed" in command.ends(3)


@pytest.mark.parametrize("kind", ["labels", "events"])
def test_a_topic_made_anew_under_a_running_relay_stops_it_though_it_has_the_next_offset(
    broker: Broker, tmp_path: Path, topic_name: str, kind: str
) -> None:
    """A fetch that comes when all that has happened gets records of the new topic, and no error."""
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case, case.relay() as relay:
        case.send_to(case.labels, (verdict(n) for n in range(20)))
        wait_until(lambda: len(case.relayed().get((case.labels, 0), [])) == 20, "all is relayed")

        relay.signal(signal.SIGSTOP)
        name = case.labels if kind == "labels" else case.topic("events")
        with case.admin() as admin:
            admin.delete_topics([name])
            wait_until(lambda: name not in admin.list_topics(), "it is gone")
        create_topic(broker, name, 1)
        case.send_to(case.labels, (verdict(n) for n in range(100, 150)))
        relay.signal(signal.SIGCONT)

        said = relay.ends(3)
        assert f"topic '{name}' was deleted and created again under the relay" in said
        assert f"headrace relay {case.settings_file} --from" in said
        assert len(case.relayed().get((case.labels, 0), [])) == (20 if kind == "labels" else 0)


@pytest.mark.full
def test_a_labels_topic_that_is_gone_is_not_ours_to_make(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with RelayCase(broker, tmp_path, topic_name, labels=1) as case, case.relay() as command:
        command.wait_for("relay begins")
        with case.admin() as admin:
            admin.delete_topics([case.labels])
        said = command.ends(3)

    assert "It is yours to make" in said
    assert "topics create" not in said


def test_history_is_merged_by_time_and_the_relay_goes_on_from_there(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """The labels come 10 s after their questions, in a topic of their own: merged, each finds its question."""
    begin = whole_seconds_ago(3_000)

    def at(record: Incoming, seconds: float) -> Incoming:
        return record._replace(timestamp=round(1_000 * (begin + seconds)))

    with RelayCase(broker, tmp_path, topic_name, labels=2, sources=[3]) as case:
        case.send_to(case.sources[0], (at(question(n, n % 3), n) for n in range(1_000)))
        case.send_to(case.labels, (at(verdict(n, n % 2), n + 10.0) for n in range(1_000)))

        merged = headrace_json(case, "merge")
        assert merged["records"] == 2_000
        assert not merged["resumed"]
        times = [record.timestamp for record in case.read("events")[0]]
        assert times == sorted(times)
        assert "has records" in headrace(case, "merge", code=3)

        case.send_to(case.sources[0], (at(question(n, n % 3), n) for n in range(1_000, 1_100)))
        case.run_to_end()

        assert case.assert_relayed_once() == 2_100
        assert case.assert_exactly_once() == 1_100
        assert case.statuses()[0]["joined"] == 1_000
