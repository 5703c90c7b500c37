"""Snapshots in an object store: S3 and what speaks its protocol, and whatever else fsspec has an address for.

Only objects are asked for: a bucket is never made, looked up or listed beyond the pipeline's own prefix, so a key that
may read, write, list and delete there is enough.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from stream.errors import EnvironmentRefused, SnapshotError
from stream.snapshots.store import FOLDER, newest_first, require_name, segments_of

#: What the S3 client is told unless the options say otherwise: seconds, and how often a request is made in all. Short
#: and once: while a partition that is to be restored asks, the worker's other partitions stand still, and what fails is
#: tried again later anyhow.
_S3_CONFIG: Final[Mapping[str, Any]] = {
    "connect_timeout": 3,
    "read_timeout": 10,
    "retries": {"mode": "standard", "total_max_attempts": 1},
    # Snapshots are sealed and read back. The checksums that S3 has added since are refused by older stores like it.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
#: Seconds that a call may take beyond its requests' own timeouts: pauses between attempts, the client's own set-up.
_SPARE_SECONDS: Final = 5.0
#: Seconds that a call may take where the timeouts of a request are not ours to set.
_OTHER_SECONDS: Final = 60.0
#: A store that takes or gives less than this in a second is as good as gone.
_LEAST_BYTES_PER_SECOND: Final = 1_000_000
#: S3 takes so much in one request; in parts, those of a writer that died would stay and be paid for.
_LARGEST_PUT: Final = 5 * 2**30

#: Classes by which backends say that nobody answered. By name: each backend has its own, and none is imported here.
_AWAY: Final = frozenset({"ConnectionError", "HTTPClientError", "ClientConnectionError", "TimeoutError"})


class ObjectStore:
    """A prefix of an object store.

    Listings are never cached, so what another process wrote or deleted is seen at once. Each call ends within a time
    that the connection's timeouts and the bytes decide (S3: 18 seconds, and one more for each MB); a store that was
    away is used again as soon as it is back. It may be used from any thread.

    Args:
        address: The pipeline's own prefix, such as `s3://bucket/prefix/fraud`.
        options: What fsspec takes for this address (`storage_options`).

    Raises:
        EnvironmentRefused: The package for this address is missing, or the options are not what it takes.

    Example:
        >>> store = ObjectStore("memory://bucket/fraud")
        >>> name = "3/00000000000000001042-0123456789abcdef.snapshot"
        >>> store.put(name, b"state")
        >>> store.names(3) == [name], store.get(name, most_bytes=100)
        (True, b'state')
    """

    def __init__(self, address: str, options: Mapping[str, Any] | None = None) -> None:
        address = address.rstrip("/")
        self.address = _without_password(address)
        self._is_s3 = address.startswith(("s3://", "s3a://"))
        self._seconds = _OTHER_SECONDS
        try:
            self._files, self._root = self._open(address, dict(options or {}))
        except ImportError as error:
            how = "run: pip install 'headrace[s3]'" if self._is_s3 or error.name == "fsspec" else str(error)
            raise EnvironmentRefused(
                f"{self.address}: keeping snapshots there takes a package that is not installed; {how}"
            ) from error
        except Exception as error:
            raise EnvironmentRefused(
                f"{self.address}: can't be used for snapshots: {_sentence(error)} "
                "Mend [snapshots] location or options, which are what fsspec takes for such an address."
            ) from error

    def _open(self, address: str, options: dict[str, Any]) -> tuple[Any, str]:
        """The file system, and the prefix as it names it."""
        # Imported here: an extra, and with botocore it takes most of a second.
        import fsspec  # type: ignore[import-untyped]  # noqa: PLC0415

        if "::" in address:  # one of them would cache or unpack: stale, or not to be written to
            raise ValueError("it is an address of several file systems, joined by ::")
        if self._is_s3:
            config = {**_S3_CONFIG, **options.get("config_kwargs", {})}
            options["config_kwargs"] = config
            self._seconds = _longest(config)
        # A file system of our own, never one that other code in this process made with other timeouts.
        options |= {"use_listings_cache": False, "skip_instance_cache": True}
        files, root = fsspec.url_to_fs(address, **options)
        if self._is_s3:
            # botocore asks again, as often as config_kwargs say; s3fs would multiply that by five, or 25.
            files.retries = 1
            try:
                # Reads botocore's tables: here, while no event waits, and not at the first snapshot.
                files.connect(timeout=self._seconds)
            except Exception as error:
                if isinstance(error, TypeError | ValueError):
                    raise
                # Else credentials that can't be had just now: the first call asks for them again, and says so.
        return files, root

    def put(self, name: str, content: bytes) -> None:
        """See `SnapshotStore.put`: one request, after which the object is there, whole."""
        path = self._path(name)
        one_request = {"chunksize": _LARGEST_PUT} if self._is_s3 else {}
        with self._asking(name, "written"):
            self._files.pipe_file(path, content, **one_request, **self._within(len(content)))

    def get(self, name: str, most_bytes: int) -> bytes:
        """See `SnapshotStore.get`."""
        path = self._path(name)
        size = self.size(name)
        if size <= most_bytes:
            if not size:
                return b""  # a range of nothing is refused
            with self._asking(name, "read"):
                # A larger one may have taken its place meanwhile: one byte beyond the limit tells.
                content: bytes = self._files.cat_file(path, start=0, end=most_bytes + 1, **self._within(size))
            size = len(content)
            if size <= most_bytes:
                return content
        raise SnapshotError(
            f"{self.address}/{name}: has {size:,} bytes; expected at most {most_bytes:,} ([snapshots] max_bytes)."
        )

    def names(self, partition: int) -> list[str]:
        """See `SnapshotStore.names`."""
        return newest_first(self._listed(partition))

    def segments(self, partition: int) -> list[str]:
        """See `SnapshotStore.segments`."""
        return segments_of(self._listed(partition))

    def _listed(self, partition: int) -> list[str]:
        return [f"{partition}/{file}" for file in self._list(str(partition), "file")]

    def partitions(self) -> list[int]:
        """See `SnapshotStore.partitions`."""
        folders = self._list("", "directory")
        found = sorted(int(folder) for folder in folders if FOLDER.fullmatch(folder))
        return [
            partition for partition in found if newest_first(n := self._listed(partition)) or segments_of(n)
        ]

    def size(self, name: str) -> int:
        """See `SnapshotStore.size`."""
        path = self._path(name)
        with self._asking(name, "read"):
            found = self._files.info(path, **self._within(0))
        if found["type"] != "file":
            raise SnapshotError(f"{self.address}/{name}: is no plain object.")
        return int(found["size"])

    def delete(self, name: str) -> None:
        """See `SnapshotStore.delete`."""
        path = self._path(name)
        with contextlib.suppress(FileNotFoundError), self._asking(name, "deleted"):
            self._files.rm_file(path, **self._within(0))

    def _path(self, name: str) -> str:
        return f"{self._root}/{require_name(name)}"

    def _list(self, folder: str, kind: str) -> list[str]:
        # Not `find`: where a backend has no better one, fsspec's answers an error with an empty list.
        with contextlib.suppress(FileNotFoundError), self._asking(folder, "listed"):
            found = self._files.ls(f"{self._root}/{folder}".rstrip("/"), detail=True, **self._within(0))
            return [entry["name"].rpartition("/")[2] for entry in found if entry["type"] == kind]
        return []

    def _within(self, size: int) -> dict[str, float]:
        """How long a call may take: fsspec ends it then, where the backend is asynchronous.

        botocore's timeouts are not enough: nothing bounds a request's body, or the wait to be told to send it.
        """
        return {"timeout": self._seconds + size / _LEAST_BYTES_PER_SECOND} if self._files.async_impl else {}

    @contextlib.contextmanager
    def _asking(self, name: str, done: str) -> Iterator[None]:
        """Whatever a backend raises comes out as the port says."""
        where = f"{self.address}/{name}".rstrip("/")
        try:
            yield
        except (MemoryError, RecursionError):
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and done != "written" and not _is_of_bucket(error):
                raise FileNotFoundError(f"{where}: there is no such object.") from error
            raise OSError(f"{where}: can't be {done}: {_sentence(error)}") from error


def _longest(config: Mapping[str, Any]) -> float:
    """Seconds that a request may take, with all its attempts."""
    retries = config["retries"]
    attempts = (
        retries.get("total_max_attempts") or retries.get("max_attempts", 4) + 1
    )  # botocore's own default is 4
    return float(attempts * (config["connect_timeout"] + config["read_timeout"]) + _SPARE_SECONDS)


def _is_of_bucket(error: FileNotFoundError) -> bool:
    """Whether the bucket is missing, not an object in it: else a wrong name would look like an empty store."""
    response = getattr(error.__cause__, "response", None) or {}
    return bool(response.get("Error", {}).get("Code") == "NoSuchBucket")


def _sentence(error: Exception) -> str:
    """Why, in a sentence."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    text = " ".join(text.split()).rstrip(".")
    names = {base.__name__ for base in type(error).__mro__}
    if _AWAY & names:
        return f"the store can't be reached: {text or 'no answer in time'}."
    if isinstance(error, PermissionError | FileNotFoundError):
        return f"the store refuses it: {text}."
    return f"{text}." if isinstance(error, OSError) and text else f"{type(error).__name__}: {text}."


def _without_password(address: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:…@", address)
