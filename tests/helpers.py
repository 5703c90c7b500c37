"""Small pipelines and records for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
