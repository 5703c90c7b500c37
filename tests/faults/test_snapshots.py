"""Recovery from snapshots: after a kill, a damaged file, a full disk or a lost store, the right bytes or a refusal.

The right answer is the fold over the whole log, which knows of no snapshot. The numbers of the steps are those of
docs/explanation/checkpoints.md.
"""

from __future__ import annotations

import hmac
import os
import pickle
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]  # kafka-python ships no types

from stream.broker import Broker
from stream.build import open_keeper
from stream.codec import encode_json
from stream.snapshots.file import MAGIC, SEAL_BYTES, Header, header_of
from stream.snapshots.key import local_key
from tests.conftest import skip_on_a_laptop
from tests.faults.helpers import (
    EVERY_40,
    EVERY_OUTPUT,
    FREQUENT,
    WATCHFUL,
    assert_from_snapshots,
    feeder_of_all,
    finish,
    mixed,
    names,
    newest,
    open_incidents,
    opened,
    own_learner,
    path_of,
    restored,
    wait_for_snapshots,
)
from tests.faults.other_river import VERSION
from tests.s3 import S3Server
from tests.support import Feeder, Incoming, KafkaCase, WorkerProcess, labelled, wait_until

pytestmark = pytest.mark.faults

LINEAR = {"use": "logistic-regression"}
FOREST = {"use": "adaptive-random-forest", "parameters": {"n_models": 3}}
AT_LENGTH = [pytest.mark.full, pytest.mark.timeout(3_600)]
#: Sections under which a dead worker is missed soon, and a dead transaction never ends by itself.
DIES_OFTEN = {"session_timeout_ms": 1_500, "transaction_timeout_ms": 60_000}


def watchful(name: str) -> dict[str, Any]:
    """Sections of a pipeline that writes to every output topic."""
    return {**WATCHFUL, "topics": {"events": f"{name}.events", "outcomes": f"{name}.outcomes"}}


# Killed -------------------------------------------------------------------------------------------------------------


class Kills(NamedTuple):
    """How many workers are killed, of what."""

    learner: dict[str, Any]
    partitions: int
    workers: int
    kills: int
    #: Records before the first worker is started.
    history: int


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(Kills(LINEAR, 4, 2, 2, 8_000), id="linear"),
        pytest.param(Kills(FOREST, 1, 1, 1, 2_000), id="forest"),
        pytest.param(Kills(FOREST, 4, 2, 6, 8_000), id="forest-full", marks=AT_LENGTH),
        pytest.param(Kills(LINEAR, 1, 2, 6, 4_000), id="linear-full", marks=AT_LENGTH),
    ],
)
def test_a_killed_worker_is_succeeded_from_a_snapshot_with_little_to_replay(
    broker: Broker, tmp_path: Path, topic_name: str, kills: Kills
) -> None:
    """With predictions that wait for their labels, and a drift detector that has seen some drift.

    From nothing: in each successor other things lie elsewhere in memory, and nothing may depend on that.
    """
    learner, partitions, workers, rounds, history = kills
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=partitions,
        learner=learner,
        worker=DIES_OFTEN,
        snapshots=FREQUENT,
        **watchful(topic_name),
    ) as case:
        case.send(mixed(number, number % partitions, partitions) for number in range(history))
        with feeder_of_all(case, 200, first=history) as feeder:
            working = [case.start(from_nothing=True) for _ in range(workers)]
            for _ in range(rounds):
                wait_for_snapshots(case, history // partitions, *working)
                victim = max(working, key=restored)
                had, before = restored(victim), sum(map(restored, case.workers))
                victim.kill()
                working[working.index(victim)] = case.start(from_nothing=True)
                wait_until(
                    lambda: sum(map(restored, case.workers)) >= before + min(had, 1),  # noqa: B023
                    "what it had is taken over",
                )
            seen = case.wait_for_more(100, *working)
            assert seen < feeder.sent
        finish(case, feeder, *working)

        assert case.assert_exactly_once(EVERY_OUTPUT) > seen
        assert sum(map(restored, case.workers)) > partitions
        for worker in case.workers[workers:]:
            if restored(worker):
                assert_from_snapshots(worker)
        assert case.count("alerts") > 0


#: Where workers die, one after the other, in the steps that have to do with snapshots (DESIGN section 5).
CRASHES = (
    "claim:after:1",  # 1, begin
    "pickle:before:3",  # 4, as all until the deletion
    "pickle:after:2",
    "write:after:2",  # a temporary file without its name
    "put:after:2",  # a snapshot that no commit names
    "delete:before:1",
    "names:after:1",  # 5, as all until the start
    "get:after:1",
    "claim:after:1",
    "start:after:1",
    "send:after:30",  # 2
    "commit:after:3",  # 3
    "dead_letter:after:2",  # 7
)
#: The same for `.ci/run`, with a forest, whose snapshots take long enough to die in.
MORE_CRASHES = (
    *CRASHES,
    *(
        f"{step}:{when}:{number}"
        for step in ("pickle", "write", "put", "get", "delete", "names", "restore", "dead_letter")
        for when in ("before", "after")
        for number in (1, 5)
        # none of them deletes five times before anything else happens to it
        if (step, number) != ("restore", 5)
    ),
)


@pytest.mark.parametrize(
    ("learner", "crashes"),
    [
        pytest.param(None, CRASHES, id="own-learner"),
        pytest.param(FOREST, MORE_CRASHES, id="forest-full", marks=AT_LENGTH),
    ],
)
def test_a_worker_killed_at_any_step_of_a_snapshot_is_succeeded_by_another_machine(
    broker: Broker, tmp_path: Path, topic_name: str, learner: dict[str, Any] | None, crashes: Sequence[str]
) -> None:
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        learner=learner or own_learner(tmp_path),
        worker=DIES_OFTEN,
        snapshots=FREQUENT | {"keep": 2},
        **watchful(topic_name),
    ) as case:
        with feeder_of_all(case, 100) as feeder:
            for number, crash in enumerate(crashes):
                worker = case.start(
                    program="tests.faults.crashing",
                    CRASH=crash,
                    HEADRACE_WORKER__INSTANCE=f"machine-{number}",
                )
                assert worker.wait() == -signal.SIGKILL, f"{crash}:\n{worker.stderr}"
            last = case.start()
            seen = case.wait_for_more(100, last)
            assert seen < feeder.sent
        finish(case, feeder, last)

        assert case.assert_exactly_once(EVERY_OUTPUT) > seen
        assert_from_snapshots(last, 2, most=feeder.sent)
        assert case.count("dead_letters") > 0


@pytest.mark.parametrize(
    "crash",
    [
        "revoke:before:1",
        "let_go:after:1",
        pytest.param("let_go:before:1", marks=AT_LENGTH),
        pytest.param("revoke:after:1", marks=AT_LENGTH),
    ],
)
def test_a_worker_that_dies_while_it_lets_go_is_succeeded_by_whom_it_let_go_for(
    broker: Broker, tmp_path: Path, topic_name: str, crash: str
) -> None:
    """Step 6: when partitions move to another worker, and at SIGTERM."""
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, partitions=2, worker=DIES_OFTEN, snapshots=FREQUENT
    ) as case:
        case.send(labelled(number, number % 2) for number in range(2_000))
        with Feeder(case, rate=200, first=2_000) as feeder:
            first = case.start(program="tests.faults.crashing", CRASH=crash)
            wait_for_snapshots(case, 1_000, first)
            second = case.start()
            assert first.wait() == -signal.SIGKILL, first.stderr
            wait_until(lambda: restored(second) >= 2, "the second worker has taken over")
            assert_from_snapshots(second, 2)
            if crash.startswith("let_go"):
                third = case.start(program="tests.faults.crashing", CRASH=crash)
                wait_until(lambda: restored(third), "the third worker has its share")
                had = restored(second)
                third.signal(signal.SIGTERM)
                assert third.wait() == -signal.SIGKILL, third.stderr
                wait_until(lambda: restored(second) > had, "the second worker has taken over again")
            seen = case.wait_for_more(100, second)
            assert seen < feeder.sent
        finish(case, feeder, second)

        assert case.assert_exactly_once() == feeder.sent


def test_a_worker_frozen_in_mid_snapshot_does_no_harm_when_it_wakes_after_its_successor(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """It wakes with a snapshot written and not yet renamed, of a partition that another worker has had for long."""
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, partitions=2, worker=DIES_OFTEN, snapshots=FREQUENT
    ) as case:
        with Feeder(case, rate=200) as feeder:
            first = case.start(program="tests.faults.crashing", CRASH="write:after:3:SIGSTOP")
            wait_until(
                lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED,
                "it is frozen in a snapshot",
            )
            # Of one partition or the other; and the second worker, once it is there, writes such files as well.
            (unfinished,) = Path(open_keeper(case.settings).store.address).rglob(".*.temporary")
            second = case.start()
            wait_until(lambda: restored(second) >= 2, "the second worker has taken over")
            written, had = len(first.logged("snapshot written")), restored(first)
            wait_for_snapshots(case, max(newest(case).values()) + 200, second)

            first.signal(signal.SIGCONT)
            wait_until(lambda: restored(first) > had, "the first worker is back")
            # It learns from the group, or from a commit that is refused, that it is a stranger.
            assert (
                first.logged("partitions lost")
                or first.logged("commit aborted")
                or first.logged("producer fenced, starting a new one")
            ), first.stderr
            # Its snapshot is written, though the other worker may have pruned it before it was read back.
            wait_until(
                lambda: first.logged("snapshot written")[written:] or first.logged("snapshot not written"),
                "what became of its snapshot is told",
            )
            assert not unfinished.exists()
            assert not case.incidents()
            for worker in (first, second):
                worker.kill()
            third = case.start()
            wait_until(lambda: restored(third) >= 2, "the third worker has taken over")
            assert_from_snapshots(third, 2)
            seen = case.wait_for_more(100, third)
            assert seen < feeder.sent
        finish(case, feeder, third)

        assert case.assert_exactly_once() == feeder.sent
        for partition in range(2):
            assert len(names(case, partition)) <= 3


def test_a_worker_told_to_stop_leaves_a_large_state_in_a_snapshot_with_nothing_to_replay(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Thousands of predictions wait for their labels; what has not come before SIGTERM comes after."""
    questions, size = 10_000, 1_000_000
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        labels={"capacity": 100_000},
        snapshots={"interval_events": 1_000_000, "interval_seconds": 10_000.0},
        topics={"events": f"{topic_name}.events", "outcomes": f"{topic_name}.outcomes"},
    ) as case:
        case.send(mixed(4 * number, 0, 1) for number in range(questions))
        with Feeder(case, rate=200, event=question_or_answer, first=questions) as feeder:
            worker = case.start()
            case.wait_for_predictions(questions, worker)
            assert not names(case, 0)
            assert worker.stop() == 0, worker.stderr
            stopped_at = case.count("predictions")

            (name,) = names(case, 0)
            state = opened(case, name).state
            assert len(state.labels.pending) > questions * 0.9
            assert path_of(case, name).stat().st_size > size
            second = case.start()
            case.wait_for_more(100, second)
            assert stopped_at < feeder.sent
        finish(case, feeder, second)

        assert case.assert_exactly_once(EVERY_OUTPUT) > stopped_at
        assert assert_from_snapshots(second, 1) == 0
        assert case.count("outcomes") > 0


def question_or_answer(number: int, partition: int) -> Incoming:
    """By turns a question and the answer to one that was asked long before."""
    asked = labelled(number, partition)
    if number % 2:
        return asked._replace(value=encode_json({"id": f"e{4 * (number % 5_000)}", "label": True}))
    return asked._replace(
        value=encode_json({"id": f"q{number}", "features": {"a": number % 10 / 10.0, "b": 1.0}})
    )


# Damaged ------------------------------------------------------------------------------------------------------------


class Files(NamedTuple):
    """What a damage may touch."""

    case: KafkaCase
    #: The partition's snapshots, the newest first.
    paths: Sequence[Path]
    key: bytes
    #: Where a forged payload would write a file.
    trace: Path


class WritesFile:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self._path}'",)


def forged(genuine: Path, payload: bytes, key: bytes, offset: int) -> tuple[str, bytes]:
    """File name and content of a snapshot whose header fits its payload and its name; sealed with this key."""
    name = f"{genuine.parent.name}/{genuine.name}"
    header = header_of(name, genuine.read_bytes(), local_key(genuine.parent.parent.parent))[0]
    fields: dict[str, Any] = header.model_dump() | {
        "next_offset": offset,
        "payload_bytes": len(payload),
        "payload_sha256": sha256(payload).hexdigest(),
    }
    text = encode_json(Header.model_validate(fields).model_dump())
    body = b"".join((MAGIC, struct.pack(">I", len(text)), text, payload))
    seal = hmac.digest(key, body, "sha256")
    assert len(seal) == SEAL_BYTES
    return f"{offset:020d}-{seal[:8].hex()}.snapshot", body + seal


def write_private(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def truncate(files: Files) -> None:
    os.truncate(files.paths[0], files.paths[0].stat().st_size // 2)


def empty(files: Files) -> None:
    os.truncate(files.paths[0], 0)


def flip_a_bit(files: Files) -> None:
    flip(files.paths[0])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)


def flip_a_bit_in_each(files: Files) -> None:
    for path in files.paths:
        flip(path)


def delete_the_newest(files: Files) -> None:
    files.paths[0].unlink()


def delete_all(files: Files) -> None:
    for path in files.paths:
        path.unlink()


def take_the_content_of_a_neighbour(files: Files) -> None:
    (neighbour, *_) = names(files.case, files.case.partitions - 1)
    files.paths[0].write_bytes(path_of(files.case, neighbour).read_bytes())


def take_the_file_of_a_neighbour(files: Files) -> None:
    (neighbour, *_) = names(files.case, files.case.partitions - 1)
    path = path_of(files.case, neighbour)
    write_private(files.paths[0].with_name(path.name), path.read_bytes())
    files.paths[0].unlink()


def forge_with_another_key(files: Files) -> None:
    payload = pickle.dumps(WritesFile(files.trace))
    name, content = forged(files.paths[0], payload, b"another key" * 4, COMMITTED)
    write_private(files.paths[0].with_name(name), content)


def forge_with_the_stolen_key(files: Files) -> None:
    payload = pickle.dumps(WritesFile(files.trace))
    name, content = forged(files.paths[0], payload, files.key, COMMITTED)
    write_private(files.paths[0].with_name(name), content)


def put_a_link_in_its_place(files: Files) -> None:
    elsewhere = files.case.settings_file.with_name("elsewhere.snapshot")
    files.paths[0].rename(elsewhere)
    files.paths[0].symlink_to(elsewhere)


def put_back_an_older_one(files: Files) -> None:
    """Under its own name: a true fold, from which more is replayed."""
    for path in files.paths[:2]:
        path.unlink()


def leave_alone(files: Files) -> None:
    pass


#: Records of each partition when its snapshots were taken, and when the worker was killed.
TAKEN = (40, 80, 120)
COMMITTED = 140
#: What is done to a partition's files; S of the snapshot that is used then; a word of the incident.
DAMAGES: Sequence[tuple[Callable[[Files], None], int | None, str]] = (
    (truncate, 80, "seal"),
    (empty, 80, "damaged"),
    (flip_a_bit, 80, "seal"),
    (flip_a_bit_in_each, None, "seal"),
    (delete_the_newest, 80, "is not in"),
    (delete_all, None, "is not in"),
    (take_the_content_of_a_neighbour, 80, "its name says otherwise"),
    (take_the_file_of_a_neighbour, 80, "its name says otherwise"),
    (forge_with_another_key, 120, "forged"),
    (forge_with_the_stolen_key, 120, "asks for"),
    (put_a_link_in_its_place, 80, "symbolic link"),
    (put_back_an_older_one, 40, "is not in"),
    (leave_alone, 120, ""),
)


def test_a_damaged_swapped_or_forged_snapshot_is_refused_and_an_older_one_or_the_log_gives_the_right_bytes(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """A damage for each partition; the last is left alone."""
    partitions = len(DAMAGES)
    traces = [tmp_path / f"written-by-{damage.__name__}" for damage, _, _ in DAMAGES]
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, partitions=partitions, snapshots=EVERY_40
    ) as case:
        worker = case.start()
        sent = 0
        for offset in (*TAKEN, COMMITTED):
            case.send(labelled(n, n % partitions) for n in range(sent, offset * partitions))
            sent = offset * partitions
            if offset in TAKEN:
                wait_for_snapshots(case, offset, worker)
        case.wait_for_predictions(sent, worker)
        worker.kill()
        assert set(newest(case).values()) == {TAKEN[-1]}
        case.send(labelled(n, n % partitions) for n in range(sent, sent + 20 * partitions))
        key = local_key(case.settings_file.parent / case.settings.snapshots.location)
        for partition, (damage, _, _) in enumerate(DAMAGES):
            paths = [path_of(case, name) for name in names(case, partition)]
            damage(Files(case, paths, key, traces[partition]))

        second = case.run_to_end()

        assert not any(trace.exists() for trace in traces)
        assert case.assert_exactly_once() == sent + 20 * partitions
        began = {line["partition"]: line for line in second.logged("partition restored")}
        incidents = [incident for incident in case.incidents() if incident["state"] == "open"]
        for partition, (damage, used, word) in enumerate(DAMAGES):
            what = f"{damage.__name__}: {began[partition]}"
            assert (began[partition]["snapshot"] is None) == (used is None), what
            assert began[partition]["replay_records"] == COMMITTED - (used or 0), what
            told = [incident for incident in incidents if incident["partition"] == partition]
            assert [incident["incident"] for incident in told] == ["snapshot-refused"] * bool(word), what
            assert all(word in incident["text"] for incident in told), told
        assert not open_incidents(case), "each is closed by the snapshot at the end"

    trace = tmp_path / "written-by-pickle"
    pickle.loads(pickle.dumps(WritesFile(trace)))
    assert trace.exists(), "the forged payload is harmless"


def test_a_log_cut_behind_a_snapshot_is_gone_on_from_and_one_cut_after_it_is_refused(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, worker=DIES_OFTEN, snapshots=EVERY_40
    ) as case:

        def send(first: int, last: int) -> None:
            case.send(labelled(number) for number in range(first, last))

        def cut(offset: int) -> None:
            case.remember_events()
            with case.admin() as admin:
                admin.delete_records({TopicPartition(case.topic("events"), 0): offset})

        def refused(*words: str) -> None:
            worker = case.start()
            assert worker.wait() == 3, worker.stderr
            assert "Traceback" not in worker.stderr
            assert all(word in worker.said for word in words), worker.said

        first = case.start()
        send(0, 40)
        wait_for_snapshots(case, 40, first)
        send(40, 60)
        case.wait_for_predictions(60, first)
        first.kill()

        cut(30)
        send(60, 90)  # first: it is to take them at once
        second = case.start()
        case.wait_for_predictions(90, second)
        assert assert_from_snapshots(second, 1, most=20) == 20
        wait_for_snapshots(case, 80, second)
        second.kill()
        (taken,) = newest(case).values()
        assert case.assert_exactly_once() == 90

        cut(taken + 3)
        refused(f"begins at {taken + 3}", "began at 0", "headrace rebuild", "headrace reset")
        cut(90)
        send(90, 100)
        cut(95)
        refused("committed up to 90", "begins at 95", "retention.ms", "headrace reset")
        assert case.count("predictions") == 90


def test_another_version_of_river_is_refused_with_both_versions_and_what_to_do(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, snapshots=EVERY_40) as case:
        case.send(labelled(number) for number in range(60))
        case.run_to_end()
        case.send(labelled(number) for number in range(60, 100))
        before = {name: path_of(case, name).read_bytes() for name in names(case, 0)}
        committed = case.committed()

        worker = case.start(program="tests.faults.other_river")

        assert worker.wait() == 3, worker.stderr
        assert "Traceback" not in worker.stderr
        for words in (f"river (0.26.1 then, {VERSION} now)", "headrace rebuild"):
            assert words in worker.said, worker.said
        assert case.committed() == committed
        assert {name: path_of(case, name).read_bytes() for name in names(case, 0)} == before
        assert case.count("predictions") == 60
        case.run_to_end()  # with the right one
        assert case.assert_exactly_once() == 100


# The store ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte. Only root can mount one: skipped elsewhere on a laptop, failing in CI."""
    folder = tmp_path / "small-disk"
    folder.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "headrace-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        skip_on_a_laptop(
            f"a small disk can't be mounted: {mounted.stderr.strip()}",
            or_fail_with="HEADRACE_TEST_REQUIRE_MOUNT",
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_snapshots_and_nothing_else_and_heals_when_there_is_room(
    broker: Broker, tmp_path: Path, topic_name: str, small_disk: Path
) -> None:
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        worker=DIES_OFTEN
        | {"session_timeout_ms": 6_000},  # the worker that is not to be killed must not be dropped
        snapshots=FREQUENT | {"location": small_disk / "snapshots", "interval_seconds": 0.5},
    ) as case:
        with Feeder(case, rate=150) as feeder:
            worker = case.start()
            wait_for_snapshots(case, 100, worker)
            ballast = small_disk / "ballast"

            def three_have_failed() -> bool:
                fill(ballast)  # again: a snapshot that came through takes the oldest away, which makes room
                return len(worker.logged("snapshot-failed")) >= 3

            wait_until(three_have_failed, "three snapshots have failed")
            kept = names(case, 0)
            assert kept
            for name in kept:
                assert opened(case, name).name == name
            folder = path_of(case, kept[0]).parent
            wait_until(lambda: not list(folder.glob(".*.temporary")), "no try leaves anything behind")
            wait_until(lambda: open_incidents(case) == {(0, "snapshot-failed")}, "people are told")
            assert len([told for told in case.incidents() if told["state"] == "open"]) == 1
            case.wait_for_more(200, worker)
            assert names(case, 0) == kept

            ballast.unlink()
            wait_until(lambda: names(case, 0)[0] > kept[0], "a snapshot is written")
            wait_until(lambda: not open_incidents(case), "the incident is closed")
            worker.kill()
            second = case.start()
            seen = case.wait_for_more(50, second)
            assert seen < feeder.sent
        finish(case, feeder, second)

        assert_from_snapshots(second, 1)
        assert case.assert_exactly_once() == feeder.sent


def fill(ballast: Path) -> None:
    """Write into a file until the disk is full."""
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def test_workers_on_several_machines_share_an_object_store_and_outlast_its_absence(
    broker: Broker, tmp_path: Path, topic_name: str, private_s3_server: S3Server
) -> None:
    """Frozen while one works, then while one starts; both go on by themselves when it is back."""
    quick = {"connect_timeout": 1, "read_timeout": 2, "retries": {"total_max_attempts": 1}}
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        partitions=2,
        worker=DIES_OFTEN,
        snapshots=FREQUENT
        | {
            "location": f"s3://{private_s3_server.new_bucket()}/snapshots",
            "key": "0123456789abcdef" * 4,
            "options": {**private_s3_server.options, "config_kwargs": quick},
        },
    ) as case:

        def start(machine: str) -> WorkerProcess:
            return case.start(HEADRACE_WORKER__INSTANCE=machine)

        def taken(worker: WorkerProcess) -> int:
            return len(worker.logged("snapshot written"))

        with Feeder(case, rate=100) as feeder:
            first, second = start("machine-a"), start("machine-b")
            wait_until(lambda: min(taken(first), taken(second)) >= 2, "both have taken snapshots")
            had = restored(second)
            first.kill()
            wait_until(lambda: restored(second) > had, "the other machine has taken over")
            assert second.logged("partition restored")[-1]["snapshot"] is not None, second.stderr

            with private_s3_server.stopped():
                wait_until(lambda: second.logged("snapshot-failed"), "a snapshot has failed")
                failed_at = taken(second)
                case.wait_for_more(200, second)
                wait_until(lambda: open_incidents(case), "people are told")
            wait_until(lambda: taken(second) >= failed_at + 2, "snapshots are taken again")
            wait_until(lambda: not open_incidents(case), "people are told that it is over", pause=0.5)

            second.kill()
            with private_s3_server.stopped():
                third = start("machine-c")
                wait_until(lambda: third.logged("snapshot-store-away"), "it waits for its snapshots")
                assert not restored(third)
            wait_until(lambda: restored(third) >= 2, "it goes on")
            seen = case.wait_for_more(100, third)
            assert seen < feeder.sent
        finish(case, feeder, third)

        assert_from_snapshots(third, 2, most=feeder.sent)
        assert case.assert_exactly_once() == feeder.sent
        assert not open_incidents(case)


def test_a_new_pipeline_waits_for_an_object_store_that_is_not_there_yet(
    broker: Broker, tmp_path: Path, topic_name: str, private_s3_server: S3Server
) -> None:
    """It tells of it among the alerts, and what it told is not taken for the output of an earlier life."""
    bucket = private_s3_server.new_bucket()
    private_s3_server.kill()
    with KafkaCase(
        broker.bootstrap_servers,
        tmp_path,
        topic_name,
        snapshots={
            "location": f"s3://{bucket}/snapshots",
            "key": "0123456789abcdef" * 4,
            "options": private_s3_server.options,
        },
    ) as case:
        case.send(labelled(number) for number in range(20))
        worker = case.start()
        wait_until(lambda: len(worker.logged("snapshot-store-away")) >= 2, "it has asked twice")
        assert open_incidents(case)
        assert worker.is_running(), worker.stderr
        assert case.count("predictions") == 0

        private_s3_server.start()
        private_s3_server.make_bucket(bucket)
        case.wait_for_predictions(20, worker)

        assert worker.stop() == 0, worker.stderr
        assert case.assert_exactly_once() == 20
        assert not open_incidents(case)
