"""`headrace reset`: a wanted fresh start, which says what it loses before it does anything."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]  # kafka-python ships no types
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from stream.broker import Broker
from stream.tools.cluster import Cluster
from stream.tools.reset import Reset
from tests.integration.commands import (
    OTHER,
    Command,
    assert_refused,
    assert_written,
    headrace,
    headrace_json,
    mixed,
    switched,
)
from tests.support import KafkaCase, labelled, wait_until, whole_seconds_ago, zoned

pytestmark = pytest.mark.integration


def snapshots_of(case: KafkaCase) -> list[Path]:
    return list(folder_of(case).rglob("*.snapshot"))


def folder_of(case: KafkaCase) -> Path:
    return case.settings_file.parent / ".headrace" / "snapshots" / case.name


def lose_commits(case: KafkaCase) -> None:
    with case.admin() as admin:
        admin.delete_group_offsets(case.name, [TopicPartition(case.topic("events"), 0)])


def commit_as_a_stranger(case: KafkaCase) -> None:
    with case.admin() as admin:
        where = TopicPartition(case.topic("events"), 0)
        admin.alter_group_offsets(case.name, {where: OffsetAndMetadata(5, "mine", None)})


def recreate(case: KafkaCase) -> None:
    with case.admin() as admin:
        admin.delete_topics([case.topic("events")])
        wait_until(lambda: case.topic("events") not in admin.list_topics(), "the topic is gone")
    case.create_topics(but=["predictions", "alerts", "dead_letters", "status"])


def test_by_default_it_goes_on_where_the_old_state_stopped_with_an_empty_learner(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Under other settings even; then from the beginning, and from the end. Outputs stay."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        case.send(mixed(range(200), 2))
        case.run_to_end()
        first, stopped = case.settings, case.committed()
        learned = case.statuses()[1]["learned"]
        written = case.count("predictions")
        case.change(**OTHER)
        second = case.settings

        with Command(case, "reset", str(case.settings_file)) as command:
            said = command.ends(2)
            assert f"partition 1: loses a learner of {learned} labels, its metrics" in command.out
        assert "there is no terminal to ask on; --yes does it without asking. Nothing was changed." in said
        assert case.committed() == stopped
        assert len(snapshots_of(case)) == 2
        segment = snapshots_of(case)[0].parent / f"{1_000_000:012d}-{'ab' * 16}.segment"
        segment.write_bytes(b"a segment of theirs")

        said = headrace(case, "reset", "--yes")
        assert f"goes on at {stopped[0]}, where it stopped." in said
        assert snapshots_of(case) == []
        assert not segment.exists()
        assert case.committed() == stopped
        assert case.count("predictions") == written
        case.send(mixed(range(200, 260), 2))
        case.run_to_end()
        expected = switched(case, [(first, {}, {}), (second, stopped, stopped)])
        assert_written(case, expected)

        said = headrace(case, "reset", "--from", "earliest", "--yes")
        assert "are predicted a second time, and readers see both predictions" in said
        case.run_to_end()
        again = switched(case, [(second, {}, {})])
        assert_written(
            case, {p: {kind: expected[p][kind] + again[p][kind] for kind in again[p]} for p in again}
        )

        ends = case.ends("events")
        case.send(mixed(range(260, 280), 2))
        losses = headrace_json(case, "reset", "--from", "latest", "--yes")
        assert [loss["origin"] - loss["committed"] for loss in losses] == [
            end - ends[partition] for partition, end in case.ends("events").items()
        ]
        written = case.count("predictions")
        case.run_to_end()
        assert case.count("predictions") == written


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lose_commits, "no committed offset", marks=pytest.mark.full),
        pytest.param(commit_as_a_stranger, "did not write", marks=pytest.mark.full),
        (recreate, "recreated"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_where_the_old_state_stopped_is_not_known_it_has_to_be_told_where_to_begin(
    broker: Broker, tmp_path: Path, topic_name: str, change: object, words: str
) -> None:
    """What a worker refuses to go on from, and says so, `reset --from` gets out of."""
    assert callable(change)
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        change(case)
        times = whole_seconds_ago(3_600)
        case.send(labelled(n)._replace(timestamp=(times + n) * 1_000) for n in range(100, 110))
        assert_refused(case, words, "headrace reset")

        refusal = headrace(case, "reset", "--yes", code=3)
        assert "where it stopped is not known" in refusal
        assert "--from latest, --from earliest, or --from with a time" in refusal
        assert "expected committed, earliest, latest or a time" in headrace(
            case, "reset", "--yes", "--from", "now", code=2
        )
        written = case.count("predictions")
        start = zoned(times + 105) if change is recreate else "earliest"

        newest = folder_of(case) / "0" / f"{999:020d}-0123456789abcdef.snapshot"
        newest.write_bytes(b"unreadable")

        said = headrace(case, "reset", "--from", start, "--yes")

        assert "loses a learner of 20 labels" in said
        assert "2 snapshots; begins at" in said
        assert "nothing is committed" in said
        assert "predicted a second time, and readers see both predictions" in said
        assert snapshots_of(case) == []
        case.run_to_end()
        places = [record.json["offset"] for record in case.read("predictions")[0][written:]]
        assert places == ([5, 6, 7, 8, 9] if change is recreate else list(range(30)))


def test_it_is_refused_while_workers_run_and_ends_what_a_dead_one_left_open(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        worker = case.start(CRASH="commit:before:1", program="tests.faults.crashing")
        wait_until(lambda: worker.logged("partition restored"), "it is at work")
        said = headrace(case, "reset", "--yes", code=3)
        assert "1 worker of" in said
        assert "a reset needs them stopped" in said
        with Cluster(case.settings) as cluster:
            case.send(labelled(number) for number in range(20, 30))
            assert worker.wait() == -signal.SIGKILL
            wait_until(lambda: cluster.members(case.name) == 0, "its session is over")

        headrace(case, "reset", "--yes")

        assert case.committed() == {0: 20}
        assert case.ends("predictions", "read_uncommitted") == case.ends("predictions")
        case.run_to_end()
        expected = switched(case, [(case.settings, {}, {}), (case.settings, {0: 20}, {0: 20})])
        assert_written(case, expected)


def test_a_worker_that_joins_while_it_asks_is_seen_and_nothing_is_changed(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        kept = snapshots_of(case)
        with Cluster(case.settings) as cluster:
            prepared = Reset(cluster, case.settings, "latest")
            worker = case.start()
            wait_until(lambda: worker.logged("partition restored"), "it is at work")

            with pytest.raises(Exception, match="has members, and so takes no offsets"):
                prepared.do()

        assert snapshots_of(case) == kept
        case.send(labelled(number) for number in range(20, 40))
        case.wait_for_predictions(40, worker)
        assert worker.stop() == 0
        assert case.assert_exactly_once() == 40


def test_a_worker_that_came_and_went_while_it_asked_is_seen_and_nothing_is_changed(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        with Cluster(case.settings) as cluster:
            prepared = Reset(cluster, case.settings, None)
            case.send(labelled(number) for number in range(20, 40))
            case.run_to_end()
            wait_until(lambda: not cluster.members(case.name), "it has left the group")

            with pytest.raises(Exception, match="has worked meanwhile"):
                prepared.do()

        case.send(labelled(number) for number in range(40, 50))
        case.run_to_end()
        assert case.assert_exactly_once() == 50


def test_on_a_terminal_it_asks(broker: Broker, tmp_path: Path, topic_name: str) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        for answer, code in ((b"n\n", 1), (b"y\n", 0)):
            ours, theirs = pty.openpty()
            os.write(ours, answer)
            ended = subprocess.run(
                [sys.executable, "-m", "stream.cli", "reset", str(case.settings_file)],
                stdin=theirs,
                capture_output=True,
                text=True,
                check=False,
            )
            os.close(ours)
            os.close(theirs)
            assert ended.returncode == code, ended.stderr
            assert f"Throw the state of {case.name} away?" in ended.stdout
            assert (snapshots_of(case) == []) == (code == 0)


def test_on_a_terminal_it_says_what_is_lost_before_it_asks_with_json_too(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send(labelled(number) for number in range(20))
        case.run_to_end()
        ours, theirs = pty.openpty()
        os.write(ours, b"y\n")

        ended = subprocess.run(
            [sys.executable, "-m", "stream.cli", "reset", str(case.settings_file), "--json"],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
        )

        os.close(ours)
        os.close(theirs)
        told, _, asked = ended.stderr.partition("\n")
        assert told.startswith("partition 0: loses a learner of 20 labels")
        assert asked.startswith(f"Throw the state of {case.name} away?")
        assert [loss["learned"] for loss in json.loads(ended.stdout)] == [20]
