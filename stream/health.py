"""Whether a worker is alive and ready, for whoever asks by HTTP: `/healthz` and `/readyz`, and `/metrics` beside them.

The worker's loop hands over `WorkerFacts`, `liveness` and `readiness` judge them, and a `HealthServer` answers from a
thread of its own, which reads the last facts and nothing else. What Prometheus is told is made by another: see
`monitors.telemetry`.
"""

from __future__ import annotations

import socket
import socketserver
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from threading import BoundedSemaphore, Thread
from typing import Any, Final, Literal

import orjson

from stream.errors import EnvironmentRefused

#: Most bytes of a request's first line and headers, and seconds that they may take: a probe sends some hundred at once.
MOST_REQUEST_BYTES: Final = 8_192
REQUEST_SECONDS: Final = 5.0
#: Most requests at a time; a further connection is closed.
MOST_REQUESTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """How one partition of a worker stands."""

    partition: int
    #: Assigned and not yet restored; restored by reading again what was committed; up to date with its commits.
    state: Literal["waiting", "replaying", "live"]
    #: The next offset to process; None while it waits.
    next_offset: int | None = None
    #: The committed next offset; None while it waits.
    committed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What a worker's loop says of itself; times are those of its clock, seconds that only grow."""

    #: When the loop last came round.
    turned_at: float
    #: When something was last committed, or there was nothing to read.
    progressed_at: float
    #: Whether the group has given this worker its share, be it empty.
    has_assignment: bool
    partitions: tuple[PartitionFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPolicy:
    """How long a worker may be silent."""

    #: The events topic, for sentences.
    topic: str
    #: Seconds in which the loop must come round: after five minutes the group takes the partitions away
    #: (max.poll.interval.ms, librdkafka's default).
    turn_seconds: float = 300.0
    #: Seconds in which something must be committed, if there is anything to read.
    progress_seconds: float = 60.0


def liveness(policy: HealthPolicy, facts: WorkerFacts | None, *, started_at: float, now: float) -> list[str]:
    """Say why the process should be started again; nothing while it should not.

    Args:
        policy: How long it may be silent.
        facts: The last that the loop said; None before the first.
        started_at: When the process began.
        now: By the clock of the facts.

    Example:
        >>> policy = HealthPolicy(topic="clicks")
        >>> liveness(policy, None, started_at=0.0, now=10.0)
        []
        >>> liveness(policy, None, started_at=0.0, now=301.0)
        ['it has not begun 301 s after its start; expected that within 300 s']
    """
    limit = policy.turn_seconds
    if facts is None:
        if now - started_at <= limit:
            return []
        return [
            f"it has not begun {now - started_at:.0f} s after its start; expected that within {limit:.0f} s"
        ]
    if now - facts.turned_at <= limit:
        return []
    return [
        f"its loop has not come round for {now - facts.turned_at:.0f} s; expected that within {limit:.0f} s: the "
        "learner or the disk hangs"
    ]


def readiness(policy: HealthPolicy, facts: WorkerFacts | None, *, now: float) -> list[str]:
    """Say why the worker is not ready; nothing if it has its share, restored, and gets on.

    Example:
        >>> partitions = (PartitionFacts(partition=3, state="replaying", next_offset=10, committed=90),)
        >>> facts = WorkerFacts(turned_at=0.0, progressed_at=0.0, has_assignment=True, partitions=partitions)
        >>> readiness(HealthPolicy(topic="clicks"), facts, now=1.0)
        ['clicks[3] is replaying: at 10 of 90']
    """
    if facts is None:
        return ["it is starting: not yet a member of the group"]
    reasons = []
    if not facts.has_assignment:
        reasons.append("the group has not given it its share of the partitions")
    for item in facts.partitions:
        where = f"{policy.topic}[{item.partition}]"
        if item.state == "waiting":
            reasons.append(f"{where} waits to be restored")
        elif item.state == "replaying":
            reasons.append(f"{where} is replaying: at {item.next_offset} of {item.committed}")
    silent = now - facts.progressed_at
    if silent > policy.progress_seconds:
        reasons.append(
            f"nothing was committed for {silent:.0f} s though there is something to read; expected a commit within "
            f"{policy.progress_seconds:.0f} s: the broker does not answer, or the learner is very slow"
        )
    return reasons


class HealthBoard:
    """Where the worker's loop puts its facts and the server's thread finds them: one reference, replaced as a whole.

    Args:
        pipeline: Name of the pipeline.
        worker: Transactional id of the worker.
        policy: How long it may be silent.
        clock: That of the worker's facts.
        metrics: Gives content type and text for Prometheus to whoever takes what a header `Accept` says; None: there
            is no `/metrics`.
    """

    def __init__(
        self,
        *,
        pipeline: str,
        worker: str,
        policy: HealthPolicy,
        clock: Callable[[], float] = time.monotonic,
        metrics: Callable[[str], tuple[str, bytes]] | None = None,
    ) -> None:
        self.metrics = metrics
        self.facts: WorkerFacts | None = None
        self._names = {"pipeline": pipeline, "worker": worker}
        self._policy = policy
        self._clock = clock
        self._started_at = clock()

    def report(self, facts: WorkerFacts) -> None:
        """Replace what is known."""
        self.facts = facts

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body for a path."""
        facts, now = self.facts, self._clock()
        match path.partition("?")[0]:
            case "/healthz":
                reasons = liveness(self._policy, facts, started_at=self._started_at, now=now)
                verdict = {"healthy": not reasons}
            case "/readyz":
                reasons = readiness(self._policy, facts, now=now)
                verdict = {"ready": not reasons}
            case _:
                return 404, {"error": "there is only /healthz, /readyz and /metrics"}
        body = {
            **verdict,
            "reasons": reasons,
            **self._names,
            "partitions": [] if facts is None else [asdict(item) for item in facts.partitions],
        }
        return (503 if reasons else 200), body


class HealthServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers `/healthz`, `/readyz` and `/metrics` from the board until it is closed.

    Args:
        board: What is known.
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one (see `port`).

    Raises:
        EnvironmentRefused: It can't listen there.
    """

    allow_reuse_address = True  # after a restart; who listens still keeps others out
    request_queue_size = 64  # of 5, the library's own, a probe would wait a second for its place
    daemon_threads = True
    block_on_close = False

    def __init__(self, board: HealthBoard, host: str, port: int) -> None:
        self.board = board
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = BoundedSemaphore(MOST_REQUESTS)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise EnvironmentRefused(
                f"the health endpoint can't listen at {host}:{port} ({getattr(error, 'strerror', None) or error}); "
                "expected an address of this machine and a free port up to 65535. Set [health] host and port (each "
                "worker takes the port plus its slot), or port = 0 for none."
            ) from error
        self.port: int = self.server_address[1]
        # A worker that ends waits for so long.
        self._thread = Thread(target=self.serve_forever, args=(0.1,), daemon=True, name="health")
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a request if there are not too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One request, one answer, and the connection is closed."""

    server: HealthServer
    #: Of a request that names none: answered with a head, as all are.
    default_request_version = "HTTP/1.0"

    def handle(self) -> None:
        """Read the whole head within bounds, then let the library parse it."""
        head = self._head()
        if head is None:
            return
        self.rfile = BytesIO(head)
        self.handle_one_request()

    def _head(self) -> bytes | None:
        deadline = time.monotonic() + REQUEST_SECONDS
        head = b""
        while b"\r\n\r\n" not in head:
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                return None
            self.connection.settimeout(seconds)
            try:
                piece = self.connection.recv(4_096)
            except OSError:
                return None
            if not piece:
                return None
            head += piece
            if len(head) > MOST_REQUEST_BYTES:
                self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
                self.send_error(431)
                return None
        self.connection.settimeout(REQUEST_SECONDS)
        return head

    def do_GET(self) -> None:
        """Answer."""
        board = self.server.board
        if board.metrics is not None and self.path.partition("?")[0] == "/metrics":
            self._send_content(200, *board.metrics(self.headers.get("Accept", "")))
        else:
            self._send(*board.answer(self.path))

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with JSON as well; another method than GET and HEAD is not allowed."""
        if code == 501:
            self._send(405, {"error": "expected GET or HEAD"}, allow="GET, HEAD")
        else:
            self._send(code, {"error": message or self.responses[code][0]})

    def _send(self, code: int, body: dict[str, Any], *, allow: str | None = None) -> None:
        self._send_content(code, "application/json", orjson.dumps(body), allow=allow)

    def _send_content(self, code: int, kind: str, content: bytes, *, allow: str | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if allow is not None:
            self.send_header("Allow", allow)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Who answers, without any version."""
        return "headrace"

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: no line for each."""
