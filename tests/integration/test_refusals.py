"""What a worker can't go on from: one plain sentence with what to do, no traceback, an exit code that says failure."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]  # kafka-python ships no types
from kafka.admin import NewPartitions  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from stream.broker import Broker
from stream.build import open_keeper
from tests.support import Feeder, KafkaCase, WorkerProcess, labelled, wait_until

pytestmark = pytest.mark.integration


def assert_refused(worker: WorkerProcess, *words: str) -> None:
    """Exit code 3 and one line for the operator, with these words."""
    assert worker.wait() == 3, worker.stderr
    assert "Traceback" not in worker.stderr, worker.stderr
    assert worker.said.count("\n") == 0, worker.stderr
    assert worker.said.startswith("headrace: "), worker.stderr
    for word in words:
        assert word in worker.said, worker.stderr


def run_some(case: KafkaCase) -> None:
    """Have a state: twenty events, predicted and committed."""
    case.send(labelled(number, number % case.partitions) for number in range(20))
    case.run_to_end()


def test_an_unreachable_broker_is_refused_quickly(tmp_path: Path) -> None:
    with KafkaCase("127.0.0.1:1", tmp_path, "nobody", partitions=0) as case:
        worker = case.start()
        began = time.monotonic()
        assert_refused(worker, "127.0.0.1:1", "Is it running")
        assert time.monotonic() - began < 45  # 10 s of trying, and the start of a process on a busy machine


def test_missing_topics_are_named_with_the_command_that_makes_them(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=0) as case:
        case.partitions = 1
        case.create_topics(but=["predictions", "status"])

        assert_refused(
            case.start(), case.topic("predictions"), case.topic("status"), "headrace topics create"
        )
        assert case.topic("alerts") not in case.workers[-1].said
        with case.admin() as admin:
            assert case.topic("predictions") not in admin.list_topics()


def test_a_mismatch_of_partitions_is_refused(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=0) as case:
        case.partitions = 2
        case.create_topics(alerts=3)

        assert_refused(case.start(), case.topic("alerts"), "3 partitions", "has 2")


def recreate(case: KafkaCase) -> None:
    """Delete `<events>` and make it again, with more records than were committed."""
    with case.admin() as admin:
        admin.delete_topics([case.topic("events")])
        wait_until(lambda: case.topic("events") not in admin.list_topics(), "the topic is gone")
        case.create_topics(but=["predictions", "alerts", "dead_letters", "status"])
    case.send(labelled(number) for number in range(30))


def lose_commits(case: KafkaCase) -> None:
    with case.admin() as admin:
        admin.delete_group_offsets(case.name, [TopicPartition(case.topic("events"), 0)])


def commit_as_a_stranger(case: KafkaCase) -> None:
    with case.admin() as admin:
        admin.alter_group_offsets(
            case.name, {TopicPartition(case.topic("events"), 0): OffsetAndMetadata(5, "mine", None)}
        )


def change_settings(case: KafkaCase) -> None:
    case.change(learner={"use": "logistic-regression", "parameters": {"l2": 0.01}}, metrics={"window": 50})


def truncate_without_snapshots(case: KafkaCase) -> None:
    """With the one that was taken at the end, nothing of the log would be needed."""
    shutil.rmtree(open_keeper(case.settings).store.address)
    with case.admin() as admin:
        admin.delete_records({TopicPartition(case.topic("events"), 0): 10})


def lose_commits_and_outputs(case: KafkaCase) -> None:
    """Only the snapshots say that this pipeline has been at work."""
    lose_commits(case)
    outputs = ["predictions", "alerts", "dead_letters", "status"]
    with case.admin() as admin:
        admin.delete_topics([case.topic(kind) for kind in outputs])
        wait_until(lambda: not {*admin.list_topics()} & {*map(case.topic, outputs)}, "the topics are gone")
    case.create_topics(but=["events"])


def change_name_of_commit(case: KafkaCase) -> None:
    """What a commit of another pipeline would say."""
    with case.admin() as admin:
        place = TopicPartition(case.topic("events"), 0)
        found = admin.list_group_offsets({case.name: [place]})[case.name][place]
        metadata = found.metadata.replace(f'"pipeline":"{case.name}"', '"pipeline":"other"')
        admin.alter_group_offsets(case.name, {place: OffsetAndMetadata(found.offset, metadata, None)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (recreate, ["recreated", "another name"]),
        (lose_commits, ["no committed offset", "are outputs", "headrace reset", "another name"]),
        (lose_commits_and_outputs, ["no committed offset", "are snapshots in", "headrace reset"]),
        (commit_as_a_stranger, ["did not write", "mine", "another name"]),
        (change_settings, ["learner, metrics", "Put it back", "headrace rebuild"]),
        (truncate_without_snapshots, ["begins at 10", "began at 0", "no snapshot", "headrace rebuild"]),
        (change_name_of_commit, ["of pipeline 'other'"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_a_state_can_not_go_on_from_is_refused(
    broker: Broker, tmp_path: Path, topic_name: str, change: Callable[[KafkaCase], None], words: list[str]
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        run_some(case)
        change(case)
        predictions = case.count("predictions")

        assert_refused(case.start(), f"{case.topic('events')}[0]", *words)

        assert case.count("predictions") == predictions


def test_a_topic_deleted_under_a_running_worker_stops_it(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        worker = case.start()
        case.wait_for_predictions(20, worker)

        with case.admin() as admin:
            admin.delete_topics([case.topic("events")])

        assert_refused(worker, case.topic("events"))


def test_a_topic_made_anew_under_a_running_worker_stops_it_though_it_has_the_next_offset(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """A fetch that comes when all that has happened gets records of the new topic, and no error."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        worker = case.start()
        case.wait_for_predictions(20, worker)

        worker.signal(signal.SIGSTOP)
        recreate(case)
        worker.signal(signal.SIGCONT)

        assert_refused(worker, case.topic("events"), "created again", "headrace reset")
        assert case.count("predictions") == 20


def test_more_partitions_under_a_running_worker_stop_it_before_it_predicts_for_keys_that_have_moved(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """The client learns of them within five minutes."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        worker = case.start()
        case.wait_for_predictions(20, worker)

        kinds = ("events", "predictions", "alerts", "dead_letters", "status")
        with case.admin() as admin:
            admin.create_partitions({case.topic(kind): NewPartitions(2) for kind in kinds})
        case.partitions = 2
        wait_until(lambda: len(case.read("events")) == 2, "there are two partitions")
        case.send(labelled(number, number % 2) for number in range(20, 30))

        assert_refused(worker, case.topic("events"), "has 2 now", "headrace rebuild")
        assert case.count("predictions") == 20


def test_an_output_topic_that_refuses_a_record_stops_the_worker_with_the_position(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        with case.admin() as admin:
            admin.delete_topics([case.topic("dead_letters")])
            wait_until(lambda: case.topic("dead_letters") not in admin.list_topics(), "the topic is gone")
            admin.create_topics({case.topic("dead_letters"): {"num_partitions": 1, "replication_factor": 1}})
        bad = labelled(1)._replace(value=b"\x07" * 1_048_400)
        case.send([labelled(0), bad, labelled(2)], max_request_size=2_000_000)

        assert_refused(case.start(), f"{case.topic('dead_letters')}[0]", "headrace check")


def test_a_worker_ends_with_0_when_told_to_while_the_broker_is_away(
    private_broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Both while it has nothing to do, and in the midst of its work: what is not committed is done again."""
    with KafkaCase(private_broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        idle = case.start(HEADRACE_WORKER__INSTANCE="idle")
        wait_until(lambda: len(idle.logged("partition restored")) == 2, "it is at work")
        with KafkaCase(private_broker.bootstrap_servers, tmp_path, f"{topic_name}-busy") as other:
            # It freezes the broker by itself, so that there is a commit which gets no answer.
            busy = other.start(
                program="tests.faults.crashing",
                CRASH="commit:before:20:SIGSTOP",
                CRASH_PID=str(private_broker.pid),
            )
            with Feeder(other) as feeder:
                wait_until(lambda: busy.logged("no answer, trying again"), "a commit has no answer")

                told = time.monotonic()
                busy.signal(signal.SIGTERM)
                idle.signal(signal.SIGINT)
                for worker in (idle, busy):
                    assert worker.wait(60) == 0, worker.stderr
                    assert worker.said == "", worker.stderr
                took = time.monotonic() - told
                os.kill(private_broker.pid, signal.SIGCONT)
            assert took < 40, busy.stderr
            other.run_to_end()
            assert other.assert_exactly_once() == feeder.sent


def test_a_refused_permission_is_said_as_one(kafka_installed: None, tmp_path: Path, topic_name: str) -> None:
    """With an authorizer, and users that log in by name."""
    users = {"admin": "secret-1", "worker": "secret-2"}
    jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required " + " ".join(
        f'user_{user}="{password}"' for user, password in users.items()
    )
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": f"{jaas};",
    }
    with Broker(
        tmp_path / "broker", port=0, heap_mb=256, properties=properties, listeners={"LOGIN": "SASL_PLAINTEXT"}
    ) as broker:
        kafka = {
            "bootstrap_servers": broker.address("LOGIN"),
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_username": "worker",
            "sasl_password": "secret-2",
        }
        with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, kafka=kafka) as case:
            case.send(labelled(number) for number in range(20))
            grants = [
                ("TOPIC", topic_name, ["DESCRIBE"]),
                ("TOPIC", topic_name, ["READ", "WRITE"]),
                ("GROUP", topic_name, ["READ", "DESCRIBE"]),
                ("TRANSACTIONAL_ID", topic_name, ["WRITE", "DESCRIBE"]),
            ]
            for kind, name, operations in grants:
                assert_refused(case.start(), "permission", "worker")
                allow(case, "worker", kind, name, operations)

            case.run_to_end()
            assert case.assert_exactly_once() == 20

            case.change(kafka=kafka | {"sasl_password": "wrong"})
            assert_refused(case.start(), "refuses the login of user 'worker'")
            assert "wrong" not in case.workers[-1].said


def allow(case: KafkaCase, user: str, kind: str, prefix: str, operations: list[str]) -> None:
    """Let a user do something with all that begins like this."""
    from kafka.admin import (
        ACL,
        ACLOperation,
        ACLPermissionType,
        ACLResourcePatternType,
        ResourcePattern,
        ResourceType,
    )

    pattern = ResourcePattern(getattr(ResourceType, kind), prefix, ACLResourcePatternType.PREFIXED)
    acls: list[Any] = [
        ACL(f"User:{user}", "*", getattr(ACLOperation, operation), ACLPermissionType.ALLOW, pattern)
        for operation in operations
    ]
    with case.admin() as admin:
        result = admin.create_acls(acls)
    assert not result["failed"], result
