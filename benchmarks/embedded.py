"""A million pending questions in an embedded store and in segments: what decided docs/decisions/0007.

    python -m benchmarks.embedded

LMDB and RocksDB get an environment of their own, .venv-bench-stores, as they are no dependencies. Each store holds the
same packed items by key, and another table in the order of time, from which the oldest leave; what is between two
checkpoints is one transaction, since a crash must leave what was there at the last. Each works on the same questions
and answers, in a process of its own. A snapshot must be able to move to another machine: so the copy counts too.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import marshal
import os
import random
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, Protocol

from benchmarks.children import ROOT, ChildFailedError, run_child

FOLDER: Final = ROOT / ".venv-bench-stores"
REQUIREMENTS: Final = ("lmdb==3.0.0", "rocksdict==0.3.29")
COUNT: Final = 1_000_000
#: Questions and as many answers between two checkpoints.
PAIRS: Final = 25_000
ROUNDS: Final = 5
NEARLY_EMPTY: Final = 100


class Contender(Protocol):
    """Items by key and by time, with checkpoints."""

    def __init__(self, folder: Path) -> None: ...

    def add(self, key: str, at: float, item: tuple[Any, ...]) -> None: ...

    def take(self, key: str) -> tuple[Any, ...] | None: ...

    def checkpoint(self) -> None:
        """The part for which the data plane stands still: afterwards a crash leaves what is there now."""

    def ship(self, to: Path) -> int:
        """Make what another machine needs of the last checkpoint, beside the data plane; the bytes that were new."""

    def oldest(self) -> float: ...


class Segments:
    """`stream.keyed`, with files as snapshots have them."""

    def __init__(self, folder: Path) -> None:
        keyed = importlib.import_module("stream.keyed")
        self._file: Callable[..., Any] = keyed.SegmentFile
        self._queue = keyed.KeyedQueue()
        self._frozen = self._queue.freeze()
        self._folder = folder
        manifest = folder / "manifest"
        if manifest.exists():
            names, found = marshal.loads(manifest.read_bytes())
            self._queue.thaw(found, ((self._file(*name), (folder / name[0]).read_bytes()) for name in names))
        self.add = self._queue.add
        self.take = self._queue.take

    def checkpoint(self) -> None:
        self._frozen = self._queue.freeze()

    def ship(self, to: Path) -> int:
        new = 0
        for part in self._frozen.segments:
            if part.segment.file is None:
                content = part.content()
                digest = hashlib.sha256(content).hexdigest()
                part.segment.file = self._file(digest, len(content), digest)
                part.segment.items = None
                new += _synced(self._folder / digest, content)
        manifest = marshal.dumps(([tuple(file) for file in self._frozen.files()], self._frozen.manifest()))
        return new + _synced(self._folder / "manifest", manifest)

    def oldest(self) -> float:
        return float(self._queue.oldest)


class SQLite:
    """One table with an index by time; a transaction between checkpoints, write-ahead log."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "pending.sqlite"
        self._db = sqlite3.connect(self._path, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-262144", "wal_autocheckpoint=0"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, time REAL, packed BLOB) WITHOUT ROWID"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS by_time ON item (time)")
        self._db.execute("BEGIN")

    def add(self, key: str, at: float, item: tuple[Any, ...]) -> None:
        self._db.execute("INSERT INTO item VALUES (?, ?, ?)", (key, at, marshal.dumps(item, 2)))

    def take(self, key: str) -> tuple[Any, ...] | None:
        found = self._db.execute("DELETE FROM item WHERE key = ? RETURNING packed", (key,)).fetchall()
        return marshal.loads(found[0][0]) if found else None

    def checkpoint(self) -> None:
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("BEGIN")

    def ship(self, to: Path) -> int:
        self._db.execute("COMMIT")
        with sqlite3.connect(to / "copy.sqlite") as copy:
            self._db.backup(copy)
        copy.close()
        self._db.execute("BEGIN")
        return (to / "copy.sqlite").stat().st_size

    def oldest(self) -> float:
        return float(self._db.execute("SELECT min(time) FROM item").fetchone()[0])


class LMDB:
    """Two tables; a write transaction between checkpoints."""

    def __init__(self, folder: Path) -> None:
        lmdb = importlib.import_module("lmdb")
        self._env = lmdb.open(str(folder), map_size=8 * 2**30, max_dbs=2)
        self._items = self._env.open_db(b"items")
        self._times = self._env.open_db(b"times")
        self._begin()

    def _begin(self) -> None:
        self._transaction = self._env.begin(write=True)

    def add(self, key: str, at: float, item: tuple[Any, ...]) -> None:
        name, when = key.encode(), struct.pack(">d", at)
        self._transaction.put(name, when + marshal.dumps(item, 2), db=self._items)
        self._transaction.put(when + name, b"", db=self._times)

    def take(self, key: str) -> tuple[Any, ...] | None:
        name = key.encode()
        found = self._transaction.pop(name, db=self._items)
        if found is None:
            return None
        self._transaction.delete(found[:8] + name, db=self._times)
        return marshal.loads(found[8:])  # type: ignore[no-any-return]

    def checkpoint(self) -> None:
        self._transaction.commit()
        self._begin()

    def ship(self, to: Path) -> int:
        self._transaction.commit()
        self._env.copy(str(to), compact=True)
        self._begin()
        return _size(to)

    def oldest(self) -> float:
        with self._transaction.cursor(db=self._times) as cursor:
            cursor.first()
            return float(struct.unpack(">d", cursor.key()[:8])[0])


class RocksDB:
    """Items and times by prefix; a write batch between checkpoints would hide them, so a write-ahead log and a
    checkpoint of hard links."""

    def __init__(self, folder: Path) -> None:
        self._rocksdict = importlib.import_module("rocksdict")
        options = self._rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        self._db = self._rocksdict.Rdict(str(folder / "db"), options)
        self._folder = folder
        self._checkpoints = 0
        self._shipped: set[tuple[str, int]] = set()

    def add(self, key: str, at: float, item: tuple[Any, ...]) -> None:
        name, when = key.encode(), struct.pack(">d", at)
        self._db[b"i" + name] = when + marshal.dumps(item, 2)
        self._db[b"t" + when + name] = b""

    def take(self, key: str) -> tuple[Any, ...] | None:
        name = key.encode()
        found = self._db.get(b"i" + name)
        if found is None:
            return None
        self._db.delete(b"i" + name)
        self._db.delete(b"t" + found[:8] + name)
        return marshal.loads(found[8:])  # type: ignore[no-any-return]

    def checkpoint(self) -> None:
        self._db.flush()
        self._checkpoints += 1
        maker = self._rocksdict.Checkpoint(self._db)
        maker.create_checkpoint(str(self._folder / f"checkpoint-{self._checkpoints}"))
        shutil.rmtree(self._folder / f"checkpoint-{self._checkpoints - 1}", ignore_errors=True)

    def ship(self, to: Path) -> int:
        new = 0
        for file in (self._folder / f"checkpoint-{self._checkpoints}").iterdir():
            size = file.stat().st_size
            if (file.name, size) not in self._shipped:
                shutil.copy(file, to / file.name)
                self._shipped.add((file.name, size))
                new += size
        return new

    def oldest(self) -> float:
        for key in self._db.keys(from_key=b"t"):
            return float(struct.unpack(">d", key[1:9])[0])
        return float("inf")


CONTENDERS: Final[dict[str, type[Contender]]] = {
    "segments": Segments,
    "sqlite": SQLite,
    "lmdb": LMDB,
    "rocksdb": RocksDB,
}
TITLES: Final = {
    "segments": "segments (`stream/keyed.py`)",
    "sqlite": f"SQLite {sqlite3.sqlite_version}",
    "lmdb": "LMDB",
    "rocksdb": "RocksDB",
}


def _synced(path: Path, content: bytes) -> int:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return len(content)


def _size(folder: Path) -> int:
    """Bytes of the disk; a file with two names counts once."""
    found = [file.stat() for file in folder.rglob("*") if file.is_file()]
    return sum({item.st_ino: item.st_blocks * 512 for item in found}.values())


def _rss_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024


class _Load:
    """Questions, and answers to random ones of them."""

    def __init__(self, store: Contender) -> None:
        self.store = store
        self._rng = random.Random(5)
        names = [f"f{i}" for i in range(10)]
        self._features = [{name: self._rng.gauss(5.0, 2.0) for name in names} for _ in range(1_000)]
        self.waiting: list[int] = []
        self._next = 0

    def ask(self, count: int) -> None:
        store = self.store
        for number in range(self._next, self._next + count):
            x = self._features[number % 1_000]
            y_proba = {False: 0.25, True: 0.75}
            store.add(
                f"tx-{number:09d}", float(number), (number, float(number), x, True, y_proba, number, b"key")
            )
            self.waiting.append(number)
        self._next += count

    def pairs(self, count: int) -> float:
        """Microseconds of CPU for an event, of all threads."""
        taken = []
        for _ in range(count):
            at = self._rng.randrange(len(self.waiting))
            self.waiting[at], self.waiting[-1] = self.waiting[-1], self.waiting[at]
            taken.append(self.waiting.pop())
            self.waiting.append(self._next + len(taken) - 1)
        return self._timed(taken, count)

    def _timed(self, taken: list[int], count: int) -> float:
        first, store = self._next, self.store
        keys = [(f"tx-{number:09d}", f"tx-{first + i:09d}", first + i) for i, number in enumerate(taken)]
        began = time.process_time()
        for old, new, number in keys:
            item = (
                number,
                float(number),
                self._features[number % 1_000],
                True,
                {False: 0.25},
                number,
                b"key",
            )
            store.add(new, float(number), item)
            if store.take(old) is None:
                raise SystemExit(f"{old} does not wait")
        spent = time.process_time() - began
        self._next += count
        return spent / (2 * count) * 1e6


def measure(name: str, folder: Path, count: int) -> dict[str, Any]:
    """One contender: filled, under load, with a checkpoint after each round."""
    few = _Load(CONTENDERS[name](_made(folder / "few")))
    few.ask(NEARLY_EMPTY)
    load = _Load(CONTENDERS[name](_made(folder / "many")))
    base = _rss_mib()
    for _ in range(count // PAIRS):
        load.ask(PAIRS)
        load.store.checkpoint()
    load.store.ship(_made(folder / "shipped"))
    rounds, pauses, ships, news = [], [], [], []
    for _ in range(ROUNDS):
        rounds.append((few.pairs(PAIRS), load.pairs(PAIRS)))
        began = time.monotonic()
        load.store.checkpoint()
        pauses.append((time.monotonic() - began) * 1e3)
        shutil.rmtree(folder / "shipped")
        began = time.monotonic()
        news.append(load.store.ship(_made(folder / "shipped")) / 2**20)
        ships.append(time.monotonic() - began)
    return {
        "rounds": rounds,
        "pauses": pauses,
        "ships": ships,
        "news": news,
        "mib": _rss_mib() - base,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "disk_mib": _size(folder / "many") / 2**20,
        "oldest": load.store.oldest(),
    }


def reopen(name: str, folder: Path, count: int) -> dict[str, Any]:
    """What a restart on the same machine takes until the first question is found."""
    began = time.monotonic()
    store = CONTENDERS[name](folder / "many")
    oldest = store.oldest()
    return {"seconds": time.monotonic() - began, "oldest": oldest}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stores_python() -> str | None:
    """The interpreter of an environment with both stores, made the first time; None if that can't be."""
    python = FOLDER / "bin" / "python"
    marker = FOLDER / ".ready"
    wanted = "\n".join(REQUIREMENTS)
    if marker.exists() and marker.read_text() == wanted:
        return str(python)
    print("Installing LMDB and RocksDB into .venv-bench-stores (once) ...", flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True, capture_output=True)
        (FOLDER / ".gitignore").write_text("*\n")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS, "orjson"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"LMDB and RocksDB could not be installed, so they are left out: {error}", file=sys.stderr)
        return None
    marker.write_text(wanted)
    return str(python)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded", description="Compare the stores.")
    parser.add_argument("--count", type=int, default=COUNT, help="questions that wait")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        what, name, folder = chosen.child
        print(json.dumps((measure if what == "measure" else reopen)(name, Path(folder), chosen.count)))
        return
    python = stores_python()
    print("| store | CPU an event more than with 100 pending, us | with 100, us | pause of a checkpoint, ms | "
          "a copy for another machine, s | of these new MiB | memory, MiB | disk, MiB | restart, s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name in CONTENDERS:
        interpreter = sys.executable if name in {"segments", "sqlite"} else python
        if interpreter is None:
            continue
        with tempfile.TemporaryDirectory(prefix="headrace-stores-") as folder:
            try:
                found, again = [
                    run_child(
                        "benchmarks.embedded",
                        "--count",
                        chosen.count,
                        "--child",
                        what,
                        name,
                        folder,
                        python=interpreter,
                    )
                    for what in ("measure", "reopen")
                ]
            except ChildFailedError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
        if found["oldest"] != again["oldest"]:
            raise SystemExit(
                f"{name}: the oldest was {found['oldest']}, and {again['oldest']} after a restart"
            )
        print(
            f"| {TITLES[name]} | {median(many - few for few, many in found['rounds']):.1f} "
            f"| {median(few for few, _ in found['rounds']):.1f} | {max(found['pauses']):.0f} "
            f"| {median(found['ships']):.2f} | {median(found['news']):.0f} | {found['mib']:.0f} "
            f"| {found['disk_mib']:.0f} | {again['seconds']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
