"""The download of the broker's jars, from a small Maven repository on this machine; and what needs no Java."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import stream.broker
from stream.broker import Broker, find_jars
from stream.errors import EnvironmentRefused

pytest.importorskip("jgo")

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></project>"""


class Repository:
    """A Maven repository with the two jars that a broker asks for, and a switch for each way to fail."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requested: Counter[str] = Counter()
        #: Paths of which only the first half is sent before the connection is cut.
        self.cut: set[str] = set()
        for group, name, version in (
            ("org.apache.kafka", "kafka_2.13", "4.1.0"),
            ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"),
        ):
            stem = f"/{group.replace('.', '/')}/{name}/{version}/{name}-{version}"
            self.files[f"{stem}.pom"] = POM.format(group=group, name=name, version=version).encode()
            self.files[f"{stem}.jar"] = jar_of(name)
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.removesuffix(".sha1")
                body = repository.files.get(path)
                if body is None:
                    self.send_error(404)
                    return
                if path != self.path:
                    body = hashlib.sha1(body).hexdigest().encode()
                else:
                    repository.requested[path.rsplit("/", 1)[1]] += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                cut = self.path in repository.cut
                self.wfile.write(body[: len(body) // 2] if cut else body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.addresses = {"central": f"http://127.0.0.1:{self.server.server_address[1]}"}

    @property
    def kafka_jar(self) -> str:
        return next(path for path in self.files if path.endswith("kafka_2.13-4.1.0.jar"))


def jar_of(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as jar:
        jar.writestr("content.txt", text * 1_000)
    return buffer.getvalue()


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(stream.broker, "_RETRY_PAUSE_SECONDS", 0.0)
    repository = Repository()
    thread = threading.Thread(target=repository.server.serve_forever, args=(0.01,))
    thread.start()
    yield repository
    repository.server.shutdown()
    thread.join()
    repository.server.server_close()


NOWHERE = {"central": "http://127.0.0.1:1"}


def test_first_call_downloads_and_later_calls_need_no_network(repository: Repository, tmp_path: Path) -> None:
    first = find_jars(tmp_path, repository.addresses)

    assert [jar.name for jar in first] == ["kafka_2.13-4.1.0.jar", "log4j-slf4j-impl-2.24.3.jar"]
    assert find_jars(tmp_path, NOWHERE) == first


def test_download_says_how_far_it_is(
    repository: Repository,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream.broker._DownloadProgress, "_SECONDS_BETWEEN_LINES", 0.0)

    find_jars(tmp_path, repository.addresses)

    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith("broker: downloading Apache Kafka 4.1.0 (once, about 45 MB) to ")
    assert [line.split(", ")[1] for line in lines[1:-1]] == ["1 files", "2 files", "3 files", "4 files"]
    assert lines[-1].startswith("broker: downloaded 4 files")


def test_connection_cut_in_mid_file_is_refused_then_repaired(repository: Repository, tmp_path: Path) -> None:
    repository.cut.add(repository.kafka_jar)
    with pytest.raises(EnvironmentRefused, match="could not be downloaded"):
        find_jars(tmp_path, repository.addresses)

    repository.cut.clear()
    jars = find_jars(tmp_path, repository.addresses)

    assert jars[0].read_bytes() == repository.files[repository.kafka_jar]
    assert repository.requested["kafka_2.13-4.1.0.pom"] == 1, "what was whole is kept"


def test_file_left_half_written_by_a_killed_process_is_fetched_again(
    repository: Repository, tmp_path: Path
) -> None:
    half = tmp_path / "kafka-4.1.0" / "repository" / repository.kafka_jar.lstrip("/")
    half.parent.mkdir(parents=True)
    half.write_bytes(b"PK half a jar")

    jars = find_jars(tmp_path, repository.addresses)

    assert jars[0] == half
    assert half.read_bytes() == repository.files[repository.kafka_jar]


@pytest.mark.parametrize("damage", ["removed", "shortened"])
def test_only_the_jar_that_was_damaged_after_the_download_is_fetched_again(
    repository: Repository, tmp_path: Path, damage: str
) -> None:
    jar = find_jars(tmp_path, repository.addresses)[0]
    if damage == "removed":
        jar.unlink()
    else:
        jar.write_bytes(jar.read_bytes()[:100])

    assert find_jars(tmp_path, repository.addresses)[0].read_bytes() == repository.files[repository.kafka_jar]
    assert repository.requested == {
        "kafka_2.13-4.1.0.pom": 1,
        "kafka_2.13-4.1.0.jar": 2,
        "log4j-slf4j-impl-2.24.3.pom": 1,
        "log4j-slf4j-impl-2.24.3.jar": 1,
    }


def test_page_of_a_proxy_is_not_taken_for_a_jar(repository: Repository, tmp_path: Path) -> None:
    repository.files[repository.kafka_jar] = b"<html>Please log in</html>"

    with pytest.raises(EnvironmentRefused, match="came damaged"):
        find_jars(tmp_path, repository.addresses)

    assert not list(tmp_path.rglob("kafka_2.13-4.1.0.jar"))


def test_two_that_start_at_once_download_each_file_once(repository: Repository, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: find_jars(tmp_path, repository.addresses), range(4)))

    assert all(jars == results[0] for jars in results)
    assert set(repository.requested.values()) == {1}


def test_without_internet_the_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(stream.broker, "_RETRY_PAUSE_SECONDS", 0.0)

    with pytest.raises(EnvironmentRefused) as refusal:
        find_jars(tmp_path, NOWHERE)

    assert "needs the internet" in str(refusal.value)
    assert "HEADRACE_CACHE" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_without_the_extra_the_sentence_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jgo.maven", None)

    with pytest.raises(EnvironmentRefused, match=r'pip install "headrace\[broker\]"'):
        find_jars(tmp_path, NOWHERE)


def test_pid_of_a_broker_that_was_not_started_is_an_error(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "data")

    assert not broker.is_running
    assert not (tmp_path / "data").exists()
    with pytest.raises(RuntimeError, match="not running"):
        broker.pid  # noqa: B018


def test_log_tail_prefers_the_lines_that_say_what_is_wrong(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text(
        "INFO starting\nERROR Unable to start\n"
        "java.net.BindException: Address already in use\n\tat sun.nio.ch.Net.bind0\nINFO shutting down\n"
    )

    tail = Broker(tmp_path, log_file=log).log_tail()

    assert tail == "ERROR Unable to start\njava.net.BindException: Address already in use"
