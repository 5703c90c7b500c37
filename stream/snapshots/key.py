"""The key that seals snapshots: from the settings, or made on first use beside a local directory."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from stream.errors import EnvironmentRefused

#: Name of the key that is made on first use, in the snapshots' directory.
FILE: Final = "snapshots.key"
#: Bytes: as many as the digest that it keys.
LEAST_BYTES: Final = 32


def local_key(folder: Path) -> bytes:
    """The key in a directory of snapshots; made there, 0600, when there is none.

    Raises:
        EnvironmentRefused: It can't be made or read, is too short, or others may read it.
    """
    path = folder / FILE
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whole before it has its name: another worker that starts now reads this one or makes its own first.
        temporary = folder / f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask takes away
            file.write(secrets.token_hex(LEAST_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            temporary.unlink()
        return _read(path)
    except OSError as error:
        raise EnvironmentRefused(
            f"{path}: the key that seals snapshots can't be made or read ({error.strerror}). Let this user write to "
            f"{folder}, or set [snapshots] location to a place it can write to."
        ) from error


def _read(path: Path) -> bytes:
    # Not blocking: a pipe in its place would wait for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        key = file.read(10_000).strip()
    if mode & 0o077:
        raise EnvironmentRefused(
            f"{path}: others may read it (mode {stat.S_IMODE(mode):o}); expected 600. Whoever has this key can forge a "
            f"state: chmod 600 {path}, and make a new key (delete it, and the snapshots with it) if it may be known."
        )
    if len(key) < LEAST_BYTES:
        raise EnvironmentRefused(
            f"{path}: the key that seals snapshots has {len(key)} bytes; expected at least {LEAST_BYTES}. "
            "Put the right one back; without it the snapshots there can't be opened."
        )
    return key
