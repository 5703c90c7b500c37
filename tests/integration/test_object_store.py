"""Snapshots in S3, on a real server: what every store promises, and a server that hangs, dies and comes back."""

from __future__ import annotations

import http.client
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from stream import keyed
from stream.snapshots.objects import ObjectStore
from stream.snapshots.segments import FEW
from stream.testing import ManualClock
from tests.s3 import S3Server
from tests.snapshot_stores import MOST, Open, StoreSuite, name_of
from tests.unit.stream.snapshots.test_segments import Bench

pytestmark = pytest.mark.integration

#: One attempt of a second: a call on a server that hangs then ends within `BOUND_SECONDS`.
QUICK = {"connect_timeout": 1, "read_timeout": 1, "retries": {"total_max_attempts": 1}}
#: 2 seconds for the request and 10 to spare, as `ObjectStore` has them, and as long again for a slow machine.
BOUND_SECONDS = 24.0


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.new_bucket()


@pytest.fixture
def open_store(s3_server: S3Server, bucket: str) -> Open:
    return lambda: ObjectStore(f"s3://{bucket}/prefix/fraud", s3_server.options)


@pytest.fixture
def put_oddly(s3_server: S3Server, bucket: str) -> Callable[[str], None]:
    def put(name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", s3_server.port, timeout=60)
        connection.request("PUT", f"/{bucket}/prefix/fraud/{name}", body=b"odd")
        assert connection.getresponse().status == http.client.OK
        connection.close()

    return put


class TestS3(StoreSuite):
    """The promises of every store."""

    def test_a_placeholder_that_a_console_made_is_no_snapshot(
        self, open_store: Open, put_oddly: Callable[[str], None]
    ) -> None:
        store = open_store()
        put_oddly("")
        put_oddly("3/")

        assert (store.names(3), store.partitions()) == ([], [])
        store.put(name_of(1), b"state")
        assert (store.names(3), store.partitions()) == ([name_of(1)], [3])

    def test_a_large_snapshot_is_one_request(
        self, open_store: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = open_store()
        content = os.urandom(1_000) * 110_000  # s3fs cuts 100 MiB and more in parts
        caplog.set_level(logging.DEBUG, "s3fs")

        store.put(name_of(1), content)

        assert requests(caplog) == ["put_object"]
        assert store.get(name_of(1), 2**30) == content

    def test_nothing_is_asked_of_the_bucket_itself(
        self, open_store: Open, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "s3fs")
        store = open_store()

        store.put(name_of(1), b"state")
        store.get(name_of(1), MOST)
        store.names(3)
        store.partitions()
        store.delete(name_of(1))

        assert requests(caplog) == [
            "put_object",
            "head_object",
            "get_object",
            *["list_objects_v2"] * 3,
            "delete_object",
        ]


def requests(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The requests that s3fs has made, by its own log."""
    return [
        record.getMessage().split()[1]
        for record in caplog.records
        if record.getMessage().startswith("CALL: ")
    ]


def calls(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put(name_of(2), b"small"),
        lambda: store.put(name_of(2), bytes(5_000_000)),
        lambda: store.get(name_of(1), MOST),
        lambda: store.size(name_of(1)),
        lambda: store.names(3),
        store.partitions,
        lambda: store.delete(name_of(2)),
    ]


def test_a_state_with_segments_comes_back_and_what_is_old_goes(
    s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "SEGMENT_ITEMS", 16)
    store = ObjectStore(f"s3://{bucket}/prefix/fraud", s3_server.options)
    bench = Bench(store, ManualClock(1_000_000.0))

    for _ in range(3):
        bench.ask(100)
        bench.answer(*range(bench.offset - 100, bench.offset, 2), *range(40))
        bench.taken()
        assert bench.restored() == (bench.offset, [])

    kept = store.names(0)
    assert len(kept) == 2
    assert {*store.segments(0)} == {segment for name in kept for segment in bench.segments_of(name)}
    assert len(store.segments(0)) > FEW


def test_a_bucket_that_is_not_there_is_no_empty_store(s3_server: S3Server) -> None:
    store = ObjectStore("s3://no-such-bucket/fraud", s3_server.options)

    for call in calls(store):
        with pytest.raises(OSError, match=r"^s3://no-such-bucket/fraud.* bucket does not exist\.$") as raised:
            call()
        assert not isinstance(raised.value, FileNotFoundError)


def test_a_server_that_hangs_is_an_error_within_the_bound_and_is_used_again_afterwards(
    private_s3_server: S3Server,
) -> None:
    options: dict[str, Any] = {**private_s3_server.options, "config_kwargs": QUICK}
    store = ObjectStore(f"s3://{private_s3_server.new_bucket()}/fraud", options)
    store.put(name_of(1), b"state")

    with private_s3_server.stopped():
        ended: list[tuple[float, BaseException | None]] = []

        def work(call: Callable[[], object]) -> None:
            began = time.monotonic()
            try:
                call()
                error = None
            except BaseException as raised:
                error = raised
            ended.append((time.monotonic() - began, error))

        # All at once, in threads of their own as the keeper's: one after the other they would take a minute.
        threads = [threading.Thread(target=work, args=(call,), daemon=True) for call in calls(store)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * BOUND_SECONDS)

    assert len(ended) == len(threads)
    for seconds, error in ended:
        # 5 MB have 5 seconds more.
        assert seconds < BOUND_SECONDS + 5
        assert type(error) is OSError
        assert "the store can't be reached: " in str(error)
    assert sorted(seconds for seconds, _ in ended)[-2] < BOUND_SECONDS
    store.put(name_of(3), b"after")
    assert store.get(name_of(3), MOST) == b"after"
    assert store.get(name_of(1), MOST) == b"state"


def test_a_server_that_is_gone_is_an_error_at_once_and_is_used_again_when_it_is_back(
    private_s3_server: S3Server,
) -> None:
    bucket = private_s3_server.new_bucket()
    store = ObjectStore(f"s3://{bucket}/fraud", private_s3_server.options)
    store.put(name_of(1), b"state")
    private_s3_server.kill()

    for call in calls(store):
        began = time.monotonic()
        with pytest.raises(
            OSError, match=r"^s3://.*: the store can't be reached: Could not connect"
        ) as raised:
            call()
        assert time.monotonic() - began < BOUND_SECONDS
        assert not isinstance(raised.value, FileNotFoundError)

    private_s3_server.start()
    private_s3_server.make_bucket(bucket)
    assert store.names(3) == []
    store.put(name_of(2), b"after")
    assert store.get(name_of(2), MOST) == b"after"


def test_a_store_that_is_away_when_it_is_opened_is_used_when_it_is_back(private_s3_server: S3Server) -> None:
    bucket = private_s3_server.new_bucket()
    private_s3_server.kill()

    store = ObjectStore(f"s3://{bucket}/fraud", private_s3_server.options)
    with pytest.raises(OSError, match="the store can't be reached"):
        store.names(3)

    private_s3_server.start()
    private_s3_server.make_bucket(bucket)
    store.put(name_of(1), b"state")
    assert store.names(3) == [name_of(1)]
