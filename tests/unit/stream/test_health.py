from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import pytest

from stream import health
from stream.build import health_policy, start_health
from stream.errors import EnvironmentRefused
from stream.health import (
    HealthBoard,
    HealthPolicy,
    HealthServer,
    PartitionFacts,
    WorkerFacts,
    liveness,
    readiness,
)
from stream.process import WriterSlot
from stream.testing import ManualClock
from tests.helpers import free_port, settings_for

POLICY = HealthPolicy(topic="clicks")
LIVE = PartitionFacts(partition=0, state="live", next_offset=7, committed=5)
WELL = WorkerFacts(turned_at=100.0, progressed_at=100.0, has_assignment=True, partitions=(LIVE,))

# The decisions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [100.0, 160.0])
def test_a_worker_with_its_share_restored_that_gets_on_is_ready(now: float) -> None:
    assert readiness(POLICY, WELL, now=now) == []


def test_an_empty_share_is_a_share() -> None:
    assert readiness(POLICY, replace(WELL, partitions=()), now=100.0) == []


@pytest.mark.parametrize(
    ("facts", "now", "reasons"),
    [
        (None, 0.0, ["it is starting: not yet a member of the group"]),
        (
            replace(WELL, has_assignment=False, partitions=()),
            100.0,
            ["the group has not given it its share of the partitions"],
        ),
        (
            replace(
                WELL,
                partitions=(
                    LIVE,
                    PartitionFacts(partition=1, state="waiting"),
                    PartitionFacts(partition=2, state="replaying", next_offset=3, committed=9),
                ),
            ),
            100.0,
            ["clicks[1] waits to be restored", "clicks[2] is replaying: at 3 of 9"],
        ),
        (
            WELL,
            161.0,
            [
                "nothing was committed for 61 s though there is something to read; expected a commit within 60 s: "
                "the broker does not answer, or the learner is very slow"
            ],
        ),
    ],
)
def test_a_worker_that_is_not_ready_says_why(
    facts: WorkerFacts | None, now: float, reasons: list[str]
) -> None:
    assert readiness(POLICY, facts, now=now) == reasons


def test_a_process_is_alive_while_its_loop_comes_round() -> None:
    (reason,) = liveness(POLICY, WELL, started_at=0.0, now=400.5)

    assert liveness(POLICY, WELL, started_at=0.0, now=400.0) == []
    assert reason.startswith("its loop has not come round for 300 s; expected that within 300 s")


def test_commits_that_are_far_apart_on_purpose_are_progress() -> None:
    settings = settings_for(worker={"commit_interval_ms": 60_000, "transaction_timeout_ms": 120_000})

    assert readiness(health_policy(settings), WELL, now=219.0) == []
    assert readiness(health_policy(settings), WELL, now=221.0) != []


# The server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def board(clock: ManualClock) -> HealthBoard:
    return HealthBoard(pipeline="p", worker="p-host-0", policy=POLICY, clock=clock)


@pytest.fixture
def server(board: HealthBoard) -> Iterator[HealthServer]:
    server = HealthServer(board, "127.0.0.1", 0)
    yield server
    server.close()


def ask(server: HealthServer, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def raw(server: HealthServer, request: bytes) -> bytes:
    """What comes back for these bytes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while piece := connection.recv(4_096):
                answer += piece
        except ConnectionResetError:  # closed with bytes unread
            pass
        return answer


def test_the_answers_follow_the_facts(server: HealthServer, board: HealthBoard, clock: ManualClock) -> None:
    assert [ask(server, path)[0] for path in ("/healthz", "/readyz")] == [200, 503]

    board.report(WELL)
    status, headers, body = ask(server, "/readyz?verbose=1")

    assert status == 200
    assert json.loads(body) == {
        "ready": True,
        "reasons": [],
        "pipeline": "p",
        "worker": "p-host-0",
        "partitions": [{"partition": 0, "state": "live", "next_offset": 7, "committed": 5}],
    }
    assert headers["Content-Type"] == "application/json"
    assert headers["Server"] == "headrace"

    clock.sleep(61.0)
    assert [ask(server, path)[0] for path in ("/healthz", "/readyz")] == [200, 503]

    clock.sleep(300.0)
    status, _, body = ask(server, "/healthz")
    assert status == 503
    assert json.loads(body)["healthy"] is False
    assert json.loads(body)["reasons"]


def test_head_answers_without_a_body(server: HealthServer, board: HealthBoard) -> None:
    board.report(WELL)

    status, headers, body = ask(server, "/readyz", "HEAD")

    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_what_prometheus_is_told_is_in_the_form_that_it_takes(
    server: HealthServer, board: HealthBoard
) -> None:
    assert ask(server, "/metrics")[0] == 404
    board.metrics = lambda accept: (f"text/plain; of={accept}", b"up 1\n")

    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/metrics?name=x", headers={"Accept": "a/b;q=0.5"})
    answer = connection.getresponse()

    assert (answer.status, answer.read()) == (200, b"up 1\n")
    assert answer.headers["Content-Type"] == "text/plain; of=a/b;q=0.5"
    connection.close()
    assert ask(server, "/metrics", "HEAD")[2] == b""
    assert ask(server, "/metrics", "POST")[0] == 405


@pytest.mark.parametrize("path", ["/", "/healthz/", "/etc/passwd", "/../readyz", "/stream/health.py"])
def test_there_is_nothing_else(server: HealthServer, path: str) -> None:
    status, _, body = ask(server, path)

    assert status == 404
    assert json.loads(body) == {"error": "there is only /healthz, /readyz and /metrics"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_not_allowed(server: HealthServer, method: str) -> None:
    status, headers, _ = ask(server, "/healthz", method)

    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


def test_a_request_that_is_too_large_is_refused(server: HealthServer) -> None:
    head = b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 8_192

    assert b" 431 " in raw(server, head).splitlines()[0]


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_request_ends_the_connection_and_nothing_else(
    server: HealthServer, request_: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = raw(server, request_)

    assert answer == b"" or b"HTTP/1.0 4" in answer or b"HTTP/1.0 505" in answer
    assert b"Python" not in answer
    assert ask(server, "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_clients_that_say_nothing_are_dropped_and_keep_nobody_out(
    server: HealthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REQUEST_SECONDS", 0.5)
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(50)]
    try:
        began = time.monotonic()
        while True:
            try:
                assert ask(server, "/healthz")[0] == 200
                break
            except OSError:  # all places are taken
                assert time.monotonic() - began < 30
                time.sleep(0.05)
        for connection in silent:
            connection.settimeout(30)
            assert connection.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()


# Where it listens -----------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


# A pipeline of a name of its own in each test: of a name that another test has now, this would be the second worker.


@pytest.fixture
def slot_of() -> Iterator[Callable[[Any], WriterSlot]]:
    slots: list[WriterSlot] = []

    def take(settings: Any) -> WriterSlot:
        slots.append(WriterSlot(settings))
        return slots[-1]

    yield take
    for slot in slots:
        slot.release()


def test_a_port_that_was_chosen_and_is_taken_is_refused(
    board: HealthBoard, taken: int, slot_of: Callable[[Any], WriterSlot]
) -> None:
    settings = settings_for(health={"port": taken}, worker={"instance": f"health-{taken}"})

    with pytest.raises(
        EnvironmentRefused,
        match=rf"^the health endpoint can't listen at 127\.0\.0\.1:{taken} \(Address already in use\); expected",
    ):
        start_health(settings, slot_of(settings), board)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 8811), ("no.such.host.invalid", 8811)])
def test_an_address_that_is_not_this_machines_is_refused(board: HealthBoard, host: str, port: int) -> None:
    with pytest.raises(EnvironmentRefused, match="expected an address of this machine"):
        HealthServer(board, host, port)


def test_the_default_port_if_it_is_taken_is_done_without(
    board: HealthBoard, taken: int, slot_of: Callable[[Any], WriterSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(worker={"instance": f"health-{taken}"})
    settings = settings.model_copy(update={"health": settings.health.model_copy(update={"port": taken})})
    settings.health.model_fields_set.clear()  # as if this were the default

    assert start_health(settings, slot_of(settings), board) is None


def test_port_0_turns_it_off(board: HealthBoard, slot_of: Callable[[Any], WriterSlot]) -> None:
    settings = settings_for(health={"port": 0})

    assert start_health(settings, slot_of(settings), board) is None


def test_each_worker_on_a_machine_takes_the_next_port(
    board: HealthBoard, slot_of: Callable[[Any], WriterSlot]
) -> None:
    port = free_port(2)
    settings = settings_for(health={"port": port}, worker={"instance": f"health-{port}"})

    servers = [start_health(settings, slot_of(settings), board) for _ in range(2)]

    assert [server.port - port for server in servers if server is not None] == [0, 1]
    for server in servers:
        assert server is not None
        server.close()
