"""What is on the outcomes topic is what an export holds; and who waits by the topics is who waits in the pipeline."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types
import pyarrow.csv as pa_csv  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.build import new_pipeline
from stream.codec import Task, encode_json
from stream.records import Record
from stream.tools.cluster import Found
from stream.tools.outcomes import Buffer, Desk, Export, Wanted
from stream.tools.table import STATES, CsvSink, ParquetSink, columns
from tests.helpers import settings_for

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

offsets = st.none() | st.integers(0, 2**63 - 1)
#: To the microsecond, of the years 1 to 9999: epoch seconds as ISO 8601 gives them, and any other float.
times = st.none() | st.datetimes().map(lambda t: t.replace(tzinfo=UTC).timestamp()) | st.floats(-6e10, 2.5e11)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20) | st.sampled_from(
    [
        "",
        '"',
        ',"',
        "\r\n",
        "\n",
        "=1+1",
        "'",
        "NULL",
        "nan",
        "\x00",
        "\x1b[2J",
        "\u202e",
        "\U0001f600",
        " a ",
        ";",
    ]
)


def labels(task: Task) -> st.SearchStrategy[Any]:
    kinds: dict[Task, st.SearchStrategy[Any]] = {
        "binary": st.booleans(),
        "multiclass": texts,
        "regression": st.floats(-1e100, 1e100),
    }
    return st.none() | kinds[task]


def bodies(task: Task) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "id": st.none() | texts | st.integers(-(2**63), 2**63 - 1),
            "state": st.sampled_from(STATES),
            "partition": st.just(0),
            "offset": offsets,
            "label_offset": offsets,
            "time": times,
            "label_time": times,
            "prediction": labels(task),
            "label": labels(task),
            "error": numbers.map(lambda v: v and abs(v))
            if task == "regression"
            else st.none() | st.integers(0, 1),
            "label_delay_seconds": numbers,
        }
    )


TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")


def moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else EPOCH + timedelta(microseconds=round(seconds * 1e6))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TASKS).flatmap(lambda task: st.tuples(st.just(task), st.lists(bodies(task), max_size=8))),
    st.integers(1, 4),
)
def test_what_was_written_is_what_is_read_back(told: tuple[Task, list[dict[str, Any]]], group: int) -> None:
    task, written = told
    records = [
        Found("o", 0, 2 * number, 1_700_000_000_000 + number, None, encode_json(body), ())
        for number, body in enumerate(written)
    ]
    as_csv, as_parquet = io.BytesIO(), io.BytesIO()
    for sink in (CsvSink(as_csv, columns(task)), ParquetSink(as_parquet, columns(task))):
        desk = Desk(task, Wanted(), Export(topic="o", output=None), expire_after_seconds=1.0)
        buffer = Buffer(sink)
        for number, record in enumerate(records):
            row = desk.outcome(record)
            assert row is not None
            buffer.add(row, 0)
            if number % group == 0:
                buffer.flush()
        buffer.flush()
        sink.close()

    expected = [
        body
        | {
            "id": None if body["id"] is None else str(body["id"]),
            "time": moment(body["time"]),
            "label_time": moment(body["label_time"]),
            "outcome_offset": record.offset,
            "timestamp": EPOCH + timedelta(milliseconds=record.timestamp),
        }
        for body, record in zip(written, records, strict=True)
    ]
    parquet = pq.read_table(io.BytesIO(as_parquet.getvalue()))
    assert [same(row) for row in parquet.to_pylist()] == [same(row) for row in expected]
    if written:
        table = pa_csv.read_csv(
            io.BytesIO(as_csv.getvalue()),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=parquet.schema,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        assert [same(row) for row in table.to_pylist()] == [same(row) for row in expected]
    lines = list(csv.DictReader(io.StringIO(as_csv.getvalue().decode(), newline="")))
    assert [line["id"] for line in lines] == [row["id"] or "" for row in expected]
    assert [line["label_delay_seconds"] for line in lines] == [
        "" if row["label_delay_seconds"] is None else repr(row["label_delay_seconds"]) for row in expected
    ]


def same(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose floats are compared by their bits."""
    return {name: value.hex() if isinstance(value, float) else value for name, value in row.items()}


def test_a_schema_is_that_of_the_task_alone() -> None:
    for task in TASKS:
        empty, full = io.BytesIO(), io.BytesIO()
        ParquetSink(empty, columns(task)).close()
        sink = ParquetSink(full, columns(task))
        sink.write([tuple(None for _ in columns(task))])
        sink.close()
        schemas: list[pa.Schema] = [pq.read_schema(io.BytesIO(file.getvalue())) for file in (empty, full)]
        assert schemas[0] == schemas[1]


#: A question, an answer or a labelled event; the id, how much later than the one before, the label.
steps = st.lists(
    st.tuples(
        st.sampled_from(["question", "answer", "labelled", "anonymous", "anonymous question", "garbage"]),
        st.integers(0, 6),
        st.integers(-3, 8),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(
    steps,
    st.fixed_dictionaries(
        {
            "duplicates": st.sampled_from(["mark", "drop"]),
            "id_window": st.integers(0, 4),
            "time": st.just("at"),
        }
    ),
    st.fixed_dictionaries(
        {
            "expire_after_seconds": st.just(20),
            "early_seconds": st.sampled_from([0, 10]),
            "capacity": st.integers(1, 5),
            "silence": st.sampled_from([None, False]),
            "conflict": st.sampled_from(["first", "correct"]),
            "remember": st.integers(0, 3),
        }
    ),
)
def test_who_waits_by_the_topics_is_who_waits_in_the_pipeline(
    told: list[tuple[str, int, int, bool]], event: dict[str, Any], labels: dict[str, Any]
) -> None:
    topics = {"events": "events", "outcomes": "o"}
    pipeline = new_pipeline(settings_for(topics=topics, event=event, labels=labels))
    written: dict[str, list[Found]] = {"predictions": [], "outcomes": []}
    now = 1_000
    for offset, (kind, number, later, label) in enumerate(told):
        now += later
        body: dict[str, Any] = {"at": now}
        if "anonymous" not in kind:
            body["id"] = number
        if kind != "answer":
            body["features"] = {"a": number}
        if "question" not in kind:
            body["label"] = label
        value = b"garbage" if kind == "garbage" else orjson.dumps(body)
        for output in pipeline.process(Record(0, offset, now * 1_000, None, value)):
            if output.to in written:
                to = written[output.to]
                to.append(Found(output.to, 0, len(to), now * 1_000, None, output.value, ()))

    export = Export(topic="o", output=None)
    desk = Desk("binary", Wanted(pending=True), export, expire_after_seconds=20.0)
    rows = [row for record in written["outcomes"] if (row := desk.outcome(record)) is not None]
    waiting = [row for record in written["predictions"] if (row := desk.prediction(record)) is not None]

    pending = pipeline.state.labels.pending
    assert len(rows) == len(written["outcomes"])
    assert export.foreign == 0
    assert len(waiting) == len(pending)
    assert len({row[0] for row in waiting}) == len(waiting)
    for row in waiting:
        question = pipeline.state.labels.pending_question(str(row[0]))
        assert question is not None
        assert question.offset == row[3]
    assert export.untold == 0
