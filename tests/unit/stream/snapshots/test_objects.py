"""Snapshots in an object store, as far as no server is needed: fsspec's store in memory, also one that fails."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec  # type: ignore[import-untyped]  # fsspec ships no types
import pytest
from botocore.exceptions import (  # type: ignore[import-untyped]  # nor does botocore
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from fsspec.exceptions import FSTimeoutError  # type: ignore[import-untyped]
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from fsspec.registry import _registry  # type: ignore[import-untyped]
from s3fs.errors import translate_boto_error  # type: ignore[import-untyped]

from stream.errors import EnvironmentRefused, SnapshotError
from stream.snapshots.objects import ObjectStore
from tests.snapshot_stores import MOST, Open, StoreSuite, name_of

#: Credentials are in the environment, so that none are looked for in the network.
pytestmark = pytest.mark.usefixtures("s3_environment")


@pytest.fixture
def address() -> Iterator[str]:
    address = f"memory://{uuid.uuid4().hex}/prefix/fraud"
    yield address
    files, root = fsspec.url_to_fs(address)
    if files.exists(root):
        files.rm(root, recursive=True)


@pytest.fixture
def open_store(address: str) -> Open:
    return lambda: ObjectStore(address)


@pytest.fixture
def put_oddly(address: str) -> Callable[[str], None]:
    def put(name: str) -> None:
        files, root = fsspec.url_to_fs(address)
        files.pipe_file(f"{root}/{name}", b"odd")

    return put


class TestMemory(StoreSuite):
    """The promises of every store."""


# --- A store that fails ------------------------------------------------------------------------------------


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Raises what the test says, at every call."""

    protocol = "failing"
    error: Exception | None = None

    def _fail(self, *_: Any, **__: Any) -> Any:
        assert self.error is not None
        raise self.error

    pipe_file = cat_file = info = ls = rm_file = _fail


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], ObjectStore]:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)

    def store(error: Exception) -> ObjectStore:
        monkeypatch.setattr(FailingFileSystem, "error", error)
        return ObjectStore("failing://bucket/fraud")

    return store


def calls(store: ObjectStore) -> dict[str, Callable[[], object]]:
    """Each method, by what its sentence says could not be done."""
    return {
        f"/{name_of(1)}: can't be written": lambda: store.put(name_of(1), b"state"),
        f"/{name_of(1)}: can't be read": lambda: store.get(name_of(1), MOST),
        f"/{name_of(1)}: can't be read ": lambda: store.size(name_of(1)),
        f"/{name_of(1)}: can't be deleted": lambda: store.delete(name_of(1)),
        "/3: can't be listed": lambda: store.names(3),
        ": can't be listed": store.partitions,
    }


def client_error(code: str, message: str) -> Exception:
    """What s3fs makes of an answer of S3's."""
    answer = ClientError({"Error": {"Code": code, "Message": message}}, "PutObject")
    error: Exception = translate_boto_error(answer)
    return error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            EndpointConnectionError(endpoint_url="http://127.0.0.1:9/bucket"),
            'the store can\'t be reached: Could not connect to the endpoint URL: "http://127.0.0.1:9/bucket".',
        ),
        (
            ReadTimeoutError(endpoint_url="http://127.0.0.1:9/bucket"),
            'the store can\'t be reached: Read timeout on endpoint URL: "http://127.0.0.1:9/bucket".',
        ),
        (FSTimeoutError(), "the store can't be reached: no answer in time."),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            "the store can't be reached: Connection reset by peer.",
        ),
        (client_error("AccessDenied", "Access Denied"), "the store refuses it: Access Denied."),
        (
            client_error("NoSuchBucket", "The specified bucket does not exist"),
            "the store refuses it: The specified bucket does not exist.",
        ),
        (client_error("SlowDown", "Reduce your request rate."), "Reduce your request rate."),
        (
            client_error("Unheard", "Of\n  no kind"),
            "An error occurred (Unheard) when calling the PutObject operation: Of no kind.",
        ),
        (NoCredentialsError(), "NoCredentialsError: Unable to locate credentials."),
        (TypeError("unexpected keyword 'kee'"), "TypeError: unexpected keyword 'kee'."),
        (OSError(28, "No space left on device"), "No space left on device."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_a_backend_raises_is_one_sentence_of_what_where_and_why(
    failing: Callable[[Exception], ObjectStore], error: Exception, why: str
) -> None:
    store = failing(error)

    for begin, call in calls(store).items():
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the sentence is compared below
            call()

        assert not isinstance(raised.value, FileNotFoundError)
        assert raised.value.__cause__ is error
        assert str(raised.value) == f"failing://bucket/fraud{begin.rstrip()}: {why}"


def test_an_object_that_is_missing_is_not_a_failure_of_the_store(
    failing: Callable[[Exception], ObjectStore],
) -> None:
    store = failing(client_error("NoSuchKey", "The specified key does not exist."))

    with pytest.raises(FileNotFoundError, match=r"fraud/3/.*: there is no such object\."):
        store.get(name_of(1), MOST)
    store.delete(name_of(1))
    assert (store.names(3), store.partitions()) == ([], [])


@pytest.mark.parametrize("error", [MemoryError(), RecursionError()], ids=["memory", "recursion"])
def test_what_is_no_failure_of_the_store_is_not_dressed_up_as_one(
    failing: Callable[[Exception], ObjectStore], error: Exception
) -> None:
    store = failing(error)

    for call in calls(store).values():
        with pytest.raises(type(error)):
            call()


def test_an_object_that_grew_after_its_size_was_asked_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(address)
    store.put(name_of(1), b"x" * 20)
    monkeypatch.setattr(store, "size", lambda _: 10)

    with pytest.raises(SnapshotError, match="has 11 bytes; expected at most 10"):
        store.get(name_of(1), 10)


# --- An address that can't be used -------------------------------------------------------------------------


def refusal(address: str, **options: Any) -> str:
    with pytest.raises(EnvironmentRefused) as raised:
        ObjectStore(address, options)
    return str(raised.value)


def test_without_fsspec_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)

    assert refusal("s3://bucket/fraud") == (
        "s3://bucket/fraud: keeping snapshots there takes a package that is not installed; "
        "run: pip install 'headrace[s3]'"
    )
    assert refusal("gs://bucket/fraud").endswith("run: pip install 'headrace[s3]'")


def test_without_the_package_of_the_address_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("s3", "gs"):  # as in a process that has not asked for one yet
        monkeypatch.delitem(_registry, kind, raising=False)
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)

    assert refusal("s3://bucket/fraud").endswith("not installed; run: pip install 'headrace[s3]'")
    assert "gcsfs" in refusal("gs://bucket/fraud")
    assert "headrace[s3]" not in refusal("gs://bucket/fraud")


def test_an_address_of_no_known_kind_is_refused() -> None:
    assert refusal("s4://bucket/fraud") == (
        "s4://bucket/fraud: can't be used for snapshots: ValueError: Protocol not known: s4. "
        "Mend [snapshots] location or options, which are what fsspec takes for such an address."
    )


def test_a_cache_before_a_store_is_refused() -> None:
    assert "joined by ::" in refusal("simplecache::memory://bucket/fraud")


def test_options_that_the_client_does_not_take_are_refused_at_the_start() -> None:
    assert "no_such_option" in refusal("s3://bucket/fraud", no_such_option=1)
    assert "no_such_key" in refusal("s3://bucket/fraud", config_kwargs={"no_such_key": 1})
    assert "ValueError: Invalid endpoint: 127.0.0.1" in refusal("s3://bucket/fraud", endpoint_url="127.0.0.1")


def test_a_password_in_an_address_is_not_shown() -> None:
    assert "s3cret" not in refusal("s4://alice:s3cret@host/fraud")
    assert ObjectStore("memory://alice:s3cret@host/fraud").address == "memory://alice:…@host/fraud"


def test_options_for_the_connection_change_what_they_name_and_keep_the_rest() -> None:
    store = ObjectStore(
        "s3://bucket/fraud", {"config_kwargs": {"read_timeout": 2}, "use_listings_cache": True}
    )

    config = store._files.s3.meta.config
    assert (config.connect_timeout, config.read_timeout) == (3, 2)
    assert config.retries == {"mode": "standard", "total_max_attempts": 1}
    assert not store._files.dircache.use_listings_cache


def test_a_store_for_s3_is_made_without_asking_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it connected")

    monkeypatch.setattr("socket.socket.connect", refuse)

    ObjectStore(
        "s3://no-such-bucket/fraud", {"endpoint_url": "http://127.0.0.1:9", "key": "a", "secret": "b"}
    )


def test_it_can_be_made_and_used_in_another_thread(address: str) -> None:
    found: list[object] = []

    def work() -> None:
        store = ObjectStore(address)
        store.put(name_of(1), b"state")
        found.append(store.get(name_of(1), MOST))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert found == [b"state"]
