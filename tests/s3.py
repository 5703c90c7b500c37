"""An S3 server for tests: moto's, a process of its own on a free port of the loopback, to freeze, kill and start again.

It ends with the process that started it. Any credentials will do; a bucket has to be made before it is used.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.helpers import free_port

#: What a process that uses the server needs in its environment.
ENVIRONMENT: Final[Mapping[str, str]] = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    # No other credentials are looked for: not in a file of the user's, not in the network.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class S3Server:
    """A server that is running after `start`, or inside `with`.

    Example::

        with S3Server() as server:
            store = ObjectStore(f"s3://{server.new_bucket()}/fraud", server.options)
            with server.stopped():
                ...  # it takes connections and answers nothing
    """

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """Where it listens; the same for as long as this object lives."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """`[snapshots.options]` for it."""
        return {"endpoint_url": self.endpoint_url}

    @property
    def pid(self) -> int:
        """The number of its process."""
        if self._process is None:
            raise AssertionError("the server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it, at the port that it had before if it had one; what it held is gone."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3", str(self.port)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            raise RuntimeError("moto's server did not start; see its standard error above")
        self.port = int(line)

    def kill(self) -> None:
        """End it at once, frozen or not: connections are refused from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def stop(self) -> None:
        """Freeze it, as a store that hangs; on return it does nothing any more."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it go on after `stop`."""
        os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Frozen inside `with`."""
        self.stop()
        try:
            yield
        finally:
            self.go_on()

    def make_bucket(self, name: str) -> None:
        """Make a bucket of this name."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("PUT", f"/{name}")
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise RuntimeError(f"bucket {name}: {response.status} {response.read()!r}")
        finally:
            connection.close()

    def new_bucket(self) -> str:
        """Make a bucket that nobody else uses."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.make_bucket(name)
        return name

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def main() -> None:
    """Serve at the port of the first argument, say which, and end with standard input.

    0 is a free one that no outgoing connection takes while the server is away.
    """
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log_request(self, *_: object) -> None:
            """Keep silent about what is well."""

    server = make_server(
        "127.0.0.1",
        int(sys.argv[1]) or free_port(),
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        request_handler=Quiet,
    )

    def end_with_our_owner() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_our_owner, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
