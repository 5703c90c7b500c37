"""Small pipelines and records for tests."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import orjson

from stream.build import new_pipeline
from stream.records import Output, Record
from stream.settings import Settings


def settings_for(task: str = "binary", **sections: Any) -> Settings:
    """Settings of a pipeline "p" over the topic "events"; sections replace whole defaults."""
    use = {"binary": "logistic-regression", "multiclass": "naive-bayes", "regression": "linear-regression"}
    return Settings.model_validate(
        {"name": "p", "task": task, "topics": {"events": "events"}, "learner": {"use": use[task]}} | sections
    )


def body(**fields: object) -> bytes:
    """A record's value."""
    return orjson.dumps(fields)


def record(value: bytes | None, offset: int = 0, **fields: Any) -> Record:
    """A record of partition 0 whose timestamp is its offset in seconds."""
    fields = {"timestamp": offset * 1_000, "key": None, "headers": None} | fields
    return Record(partition=0, offset=offset, value=value, **fields)


def fold(settings: Settings, records: Iterable[Record]) -> list[tuple[int, Output]]:
    """What an uninterrupted run writes, each with its record's timestamp: the oracle."""
    pipeline = new_pipeline(settings)
    return [(item.timestamp, output) for item in records for output in pipeline.process(item)]


def decoded(outputs: Sequence[Output], to: str) -> list[Mapping[str, Any]]:
    """The JSON of one kind of outputs."""
    return [orjson.loads(output.value or b"null") for output in outputs if output.to == to]


def free_port(count: int = 1) -> int:
    """The first of so many neighbouring ports that nobody uses, below those that outgoing connections take."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def canonical(value: object) -> str:
    """A digest of an object and all it holds that is equal only for equal states, whatever the process.

    The walk goes where pickle goes. Floats count by their bits, dictionaries in their order, sets sorted; what is
    held in two places counts as one thing held twice.
    """
    seen: dict[int, int] = {}
    kept: list[object] = []  # or an id might be given again while we walk
    digest = hashlib.sha256()

    def walk(item: object) -> None:
        match item:
            case None | bool() | int() | str() | bytes() if type(item).__module__ == "builtins":
                digest.update(f"{type(item).__name__} {item!r};".encode())
            case float() if type(item) is float:
                digest.update(f"float {item.hex()};".encode())
            case type() | FunctionType() | BuiltinFunctionType() if not _is_bound(item):
                digest.update(f"{item.__module__}.{item.__qualname__};".encode())
            case tuple() if type(item) is tuple:  # nothing can tell whether two are one
                digest.update(b"tuple(")
                for part in item:
                    walk(part)
                digest.update(b")")
            case _ if id(item) in seen:
                digest.update(f"again {seen[id(item)]};".encode())
            case _:
                seen[id(item)] = len(seen)
                kept.append(item)
                digest.update(f"{type(item).__module__}.{type(item).__qualname__}(".encode())
                walk_inside(item)
                digest.update(b")")

    def walk_inside(item: object) -> None:
        match item:
            case list() if type(item) is list:
                for part in item:
                    walk(part)
            case dict() if type(item) is dict:
                for key, part in item.items():
                    walk(key)
                    walk(part)
            case set() | frozenset():
                for text in sorted(canonical(part) for part in item):
                    digest.update(text.encode())
            case _:
                found = item.__reduce_ex__(4)
                for part in found if isinstance(found, tuple) else (found,):
                    walk(list(part) if isinstance(part, Iterator) else part)

    walk(value)
    return digest.hexdigest()


def _is_bound(item: object) -> bool:
    owner = getattr(item, "__self__", None)
    return owner is not None and not isinstance(owner, ModuleType)
