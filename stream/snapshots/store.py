"""Where snapshots lie: the port, and a directory of this machine. `stream.snapshots.objects` has object stores.

A name is `{partition}/{file}`, relative to the pipeline's own place; see `stream.snapshots.file` for the file's part.
Beside snapshots lie *segments*, files that several snapshots share: see `stream.snapshots.segments`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from stream.errors import SnapshotError

#: A snapshot's name, and a segment's; nothing else is ever read, written or deleted.
NAME: Final = re.compile(
    r"(?P<partition>0|[1-9][0-9]{0,5})/(?P<offset>[0-9]{20})-(?P<seal>[0-9a-f]{16})\.snapshot"
)
SEGMENT: Final = re.compile(
    r"(?P<partition>0|[1-9][0-9]{0,5})/(?P<written_at>[0-9]{12})-(?P<digest>[0-9a-f]{32})\.segment"
)
#: A partition's folder: its number as it is written, so that no two are of the same partition.
FOLDER: Final = re.compile(r"0|[1-9][0-9]{0,5}")
#: Seconds after which a temporary file is what a dead writer left.
STALE_SECONDS: Final = 3_600.0


class SnapshotStore(Protocol):
    """Whole files by name.

    Each method raises `OSError` when the store can't be reached, is full, or refuses: that passes, or an operator
    mends it. `SnapshotError` says that a file is there and is not to be used.
    """

    #: The place, for messages.
    address: str

    def put(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; on return it outlives this machine's power."""

    def get(self, name: str, most_bytes: int) -> bytes:
        """Read a whole file.

        Raises:
            FileNotFoundError: There is none of that name.
            SnapshotError: It is larger than `most_bytes`, or no plain file.
        """

    def names(self, partition: int) -> list[str]:
        """Names of a partition's snapshots, the one with the largest offset first."""

    def segments(self, partition: int) -> list[str]:
        """Names of a partition's segments, the oldest first."""

    def partitions(self) -> list[int]:
        """Partitions that have snapshots or segments, in order."""

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def delete(self, name: str) -> None:
        """Delete a file, which may be gone already."""


def newest_first(names: list[str]) -> list[str]:
    """Snapshot names by offset, the largest first; what has another form of name is left out."""
    return sorted((name for name in names if NAME.fullmatch(name)), reverse=True)


def segments_of(names: list[str]) -> list[str]:
    """Names of segments, the oldest first; what has another form of name is left out."""
    return sorted(name for name in names if SEGMENT.fullmatch(name))


def require_name(name: str) -> str:
    """The name, if it is one of a snapshot or of a segment.

    Raises:
        SnapshotError: It is none.
    """
    if NAME.fullmatch(name) is None and SEGMENT.fullmatch(name) is None:
        raise SnapshotError(f"{name!r} is no name of a snapshot.")
    return name


class LocalDirectory:
    """A directory of this machine: 0700, its files 0600, no symbolic link followed.

    Args:
        root: The pipeline's own directory; made when it is first needed.

    Example:
        >>> import tempfile
        >>> store = LocalDirectory(Path(tempfile.mkdtemp()) / "fraud")
        >>> name = "3/00000000000000001042-0123456789abcdef.snapshot"
        >>> store.put(name, b"state")
        >>> store.names(3) == [name], store.get(name, most_bytes=100)
        (True, b'state')
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.address = str(root)

    def put(self, name: str, content: bytes) -> None:
        """See `SnapshotStore.put`: temporary file, fsync, rename, fsync of the directory."""
        folder, file = self._place(name)
        with self._opened(folder, make=True) as directory:
            self._sweep(directory)
            temporary = f".{file}.{os.getpid()}.temporary"
            try:
                self._write(directory, temporary, content)
                os.rename(temporary, file, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            os.fsync(directory)

    def _write(self, directory: int, temporary: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with contextlib.suppress(FileNotFoundError):  # of a process that had our number and died
            os.unlink(temporary, dir_fd=directory)
        with open(os.open(temporary, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def get(self, name: str, most_bytes: int) -> bytes:
        """See `SnapshotStore.get`."""
        folder, file = self._place(name)
        with self._opened(folder) as directory:
            # Not blocking: a pipe in its place would wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                descriptor = os.open(file, flags, dir_fd=directory)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise SnapshotError(
                        f"{self.address}/{name}: is a symbolic link; none is followed."
                    ) from None
                if error.errno == errno.ENXIO:
                    raise SnapshotError(f"{self.address}/{name}: is no plain file.") from None  # a socket
                raise
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise SnapshotError(f"{self.address}/{name}: is no plain file.")
                if found.st_size > most_bytes:
                    raise SnapshotError(
                        f"{self.address}/{name}: has {found.st_size:,} bytes; expected at most {most_bytes:,} "
                        "([snapshots] max_bytes)."
                    )
                with open(descriptor, "rb", closefd=False) as opened:
                    # Not most_bytes: so much memory is asked for at once, however small the file.
                    return opened.read(found.st_size)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                # One bad sector is no store that is away: an older snapshot may be whole.
                raise SnapshotError(f"{self.address}/{name}: can't be read: {error.strerror}.") from error
            finally:
                os.close(descriptor)

    def names(self, partition: int) -> list[str]:
        """See `SnapshotStore.names`."""
        return newest_first(self._listed(partition))

    def segments(self, partition: int) -> list[str]:
        """See `SnapshotStore.segments`."""
        return segments_of(self._listed(partition))

    def _listed(self, partition: int) -> list[str]:
        try:
            with self._opened(str(partition)) as directory:
                return [f"{partition}/{file}" for file in os.listdir(directory)]
        except FileNotFoundError:
            return []

    def partitions(self) -> list[int]:
        """See `SnapshotStore.partitions`."""
        try:
            with self._opened() as directory:
                found = sorted(int(entry) for entry in os.listdir(directory) if FOLDER.fullmatch(entry))
        except FileNotFoundError:
            return []
        return [partition for partition in found if self.names(partition) or self.segments(partition)]

    def size(self, name: str) -> int:
        """See `SnapshotStore.size`."""
        folder, file = self._place(name)
        with self._opened(folder) as directory:
            return os.stat(file, dir_fd=directory, follow_symlinks=False).st_size

    def delete(self, name: str) -> None:
        """See `SnapshotStore.delete`."""
        folder, file = self._place(name)
        with contextlib.suppress(FileNotFoundError), self._opened(folder) as directory:
            os.unlink(file, dir_fd=directory)

    @staticmethod
    def _place(name: str) -> tuple[str, str]:
        folder, _, file = require_name(name).partition("/")
        return folder, file

    @contextlib.contextmanager
    def _opened(self, folder: str | None = None, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the root or of a folder in it; neither may be a link, or another user's to write into."""
        if make:
            for folder_above in reversed(self._root.parents):
                _made(folder_above, 0o777)
            _made(self._root, 0o700)
        root = self._open_directory(str(self._root), None)
        try:
            if folder is None:
                yield root
                return
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, mode=0o700, dir_fd=root)
                    os.fsync(root)
            inner = self._open_directory(folder, root)
            try:
                yield inner
            finally:
                os.close(inner)
        finally:
            os.close(root)

    def _open_directory(self, path: str, parent: int | None) -> int:
        shown = path if parent is None else f"{self.address}/{path}"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise SnapshotError(
                    f"{shown}: is a symbolic link or no directory; expected a directory."
                ) from None
            raise
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            os.close(descriptor)
            raise SnapshotError(
                f"{shown}: belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}; expected a "
                f"directory of user {os.geteuid()} that nobody else can write to (chmod 700)."
            )
        return descriptor

    @staticmethod
    def _sweep(directory: int) -> None:
        """Delete what writers left when they died; before writing, as it may be what fills the disk."""
        for entry in os.listdir(directory):
            if entry.endswith(".temporary"):
                with contextlib.suppress(OSError):
                    if (
                        time.time() - os.stat(entry, dir_fd=directory, follow_symlinks=False).st_mtime
                        > STALE_SECONDS
                    ):
                        os.unlink(entry, dir_fd=directory)


def _made(folder: Path, mode: int) -> None:
    """Make a folder if there is none, so that it outlives this machine's power."""
    if folder.is_dir():
        return
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=mode)
        above = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(above)
        finally:
            os.close(above)
