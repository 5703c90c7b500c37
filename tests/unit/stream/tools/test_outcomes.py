from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # pyarrow ships no types
import pytest

from stream.codec import Task
from stream.errors import ConfigError, EnvironmentRefused, ResourcesExhausted
from stream.tools import outcomes
from stream.tools.cluster import Found
from stream.tools.outcomes import Buffer, Desk, Edge, Export, Wanted, edge_of, export, sentences_of
from stream.tools.table import CsvSink, ParquetSink, Row, Sink, columns, replaced, row_of
from tests.helpers import settings_for

#: An outcome as a worker writes it.
BODY: dict[str, Any] = {
    "id": "a",
    "state": "joined",
    "partition": 3,
    "offset": 7,
    "label_offset": 9,
    "time": 100.5,
    "label_time": 103.0,
    "prediction": True,
    "label": False,
    "error": 1,
    "label_delay_seconds": 2.5,
}


def found(at: int = 0, timestamp: int = 1_000, **change: Any) -> Found:
    body = {name: value for name, value in (BODY | change).items() if value is not ...}
    return Found("p.outcomes", 3, at, timestamp, b"k", orjson.dumps(body), ())


def predicted(offset: int, timestamp: int = 1_000, **change: Any) -> Found:
    body = {"id": f"e{offset}", "partition": 3, "offset": offset, "time": 100.0, "prediction": None} | change
    return Found("p.predictions", 3, offset, timestamp, b"k", orjson.dumps(body), ())


def desk(wanted: Wanted, task: Task = "binary", *, expire_after_seconds: float = 60.0) -> tuple[Desk, Export]:
    export = Export(topic="p.outcomes", output=None)
    return Desk(task, wanted, export, expire_after_seconds=expire_after_seconds), export


def csv_of(rows: list[Row], task: Task = "binary", *, spreadsheet: bool = False) -> str:
    file = io.BytesIO()
    sink = CsvSink(file, columns(task), spreadsheet=spreadsheet)
    sink.write(rows)
    sink.close()
    return file.getvalue().decode()


def row(task: Task = "binary", **change: Any) -> Row:
    made = row_of(found(**change), task)
    assert made is not None
    return made


# --- Rows ------------------------------------------------------------------------------------------------


def test_a_line_holds_what_the_record_says() -> None:
    header, line = csv_of([row()]).splitlines()

    assert header == (
        "id,state,partition,offset,label_offset,time,label_time,prediction,label,error,label_delay_seconds,"
        "outcome_offset,timestamp"
    )
    assert line == (
        '"a","joined",3,7,9,1970-01-01T00:01:40.500000Z,1970-01-01T00:01:43Z,true,false,1,2.5,0,1970-01-01T00:00:01Z'
    )


@pytest.mark.parametrize(
    "change",
    [
        {"state": "pending"},
        {"state": "odd"},
        {"state": ["joined"]},
        {"state": ...},
        {"partition": 2},
        {"partition": ...},
        {"id": 1.5},
        {"id": True},
        {"id": ["a"]},
        {"offset": "7"},
        {"offset": -1},
        {"offset": 2**63},
        {"offset": ...},
        {"label_offset": True},
        {"time": "now"},
        {"label_time": False},
        {"prediction": "true"},
        {"prediction": 1},
        {"label": 0.0},
        {"label": ...},
        {"error": 0.5},
        {"label_delay_seconds": "2"},
    ],
)
def test_a_record_that_no_worker_wrote_is_no_row(change: dict[str, Any]) -> None:
    assert row_of(found(**change), "binary") is None


@pytest.mark.parametrize("value", [None, b"", b"garbage", b"[]", b"null", b"\xff", b'"joined"', b"[" * 5_000])
def test_garbage_is_no_row(value: bytes | None) -> None:
    assert row_of(found()._replace(value=value), "binary") is None


@pytest.mark.parametrize(
    ("task", "label", "error"), [("binary", True, 1), ("multiclass", "cat", 1), ("regression", 1.5, 0.25)]
)
def test_labels_of_another_task_are_no_row(task: Task, label: object, error: object) -> None:
    record = found(label=label, prediction=label, error=error)

    for other in ("binary", "multiclass", "regression"):
        assert (row_of(record, other) is not None) == (other == task)


def test_an_id_that_is_a_number_is_text() -> None:
    assert row(id=7)[0] == "7"


@pytest.mark.parametrize("time", [1e300, -1e300, 1e12, -1e12])
def test_a_time_of_no_year_is_not_known(time: float) -> None:
    assert ",,1970-01-01T00:01:43Z," in csv_of([row(time=time)])


def test_a_timestamp_of_no_year_is_not_known(tmp_path: Path) -> None:
    """Kafka keeps any, if the topic's message.timestamp.after.max.ms says so."""
    rows = [row(timestamp=timestamp) for timestamp in (253_402_300_799_999, 253_402_300_800_000, 2**63 - 1)]

    assert [line.rpartition(",")[2] for line in csv_of(rows).splitlines()[1:]] == [
        "9999-12-31T23:59:59.999000Z",
        "",
        "",
    ]
    with replaced(tmp_path / "all.parquet") as file:
        sink = ParquetSink(file, columns("binary"))
        sink.write(rows)
        sink.close()
    assert pq.read_table(tmp_path / "all.parquet").column("timestamp").null_count == 2


def test_a_text_that_is_empty_is_something_else_than_none() -> None:
    empty, none = csv_of(
        [
            row("multiclass", label="", prediction=None, error=None),
            row("multiclass", label=None, prediction="", error=None),
        ],
        "multiclass",
    ).splitlines()[1:]

    assert ',,"",,2.5,' in empty
    assert ',"",,,2.5,' in none


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_like_a_formula_stays_as_it_is_unless_it_is_for_a_spreadsheet(text: str) -> None:
    as_it_is = csv_of([row(id=text)])
    changed = csv_of([row(id=text)], spreadsheet=True)

    assert as_it_is.partition("\n")[2].startswith(f'"{text}","joined"')
    assert changed.partition("\n")[2].startswith(f'"\'{text}","joined"')


def test_numbers_below_zero_are_no_formulas() -> None:
    line = csv_of([row("regression", label=-1.5, prediction=-2.0, error=0.5)], "regression", spreadsheet=True)

    assert ",-2.0,-1.5,0.5," in line


# --- Which rows ------------------------------------------------------------------------------------------


def test_only_the_states_that_are_wanted_become_rows() -> None:
    wanted = Wanted(states=["late", "expired"])
    it, export = desk(wanted)

    rows = [it.outcome(found(state=state)) for state in ("joined", "late", "expired", "late")]

    assert [row is not None for row in rows] == [False, True, True, True]
    assert export.states == Counter(late=2, expired=1)
    assert export.rows == 3


def test_a_range_of_times_begins_with_the_first_and_ends_before_the_last() -> None:
    it, export = desk(Wanted(begin=Edge(None, 1_000), end=Edge(None, 2_000)))

    rows = [it.outcome(found(timestamp=timestamp)) for timestamp in (999, 1_000, 1_999, 2_000, 1_500)]

    assert [row is not None for row in rows] == [False, True, True, False, True]
    assert export.rows == 3


def test_what_is_no_outcome_is_counted_and_the_first_is_named() -> None:
    it, export = desk(Wanted())

    for offset, state in enumerate(["joined", "odd", "odd"]):
        it.outcome(found(at=offset, state=state))

    assert (export.rows, export.foreign, export.first_foreign) == (1, 2, "p.outcomes[3]@1")
    assert sentences_of(export, Wanted()) == [
        "Left out: 2 records that this pipeline did not write or whose labels are of another task, first at "
        "p.outcomes[3]@1.",
        "Wrote 1 row of p.outcomes: 1 joined.",
    ]


def test_a_question_without_an_outcome_is_pending() -> None:
    it, export = desk(Wanted(pending=True))

    it.outcome(found())  # of the event at 7
    rows = [
        it.prediction(record)
        for record in (
            predicted(6),
            predicted(7),
            predicted(8, duplicate_of=6),
            predicted(9, id=None),
            predicted(70_000),
        )
    ]

    assert [row and row[:4] for row in rows] == [
        ("e6", "pending", 3, 6),
        None,
        None,
        None,
        ("e70000", "pending", 3, 70_000),
    ]
    assert export.states == Counter(joined=1, pending=2)


def test_a_question_that_can_wait_no_more_is_not_pending_though_it_has_no_outcome() -> None:
    it, export = desk(Wanted(pending=True))

    rows = [it.prediction(predicted(n, time=time)) for n, time in enumerate((100.0, 200.0, 139.0, 140.0))]
    late = it.prediction(predicted(5, time=100.0))

    assert [row is not None for row in (*rows, late)] == [True, True, False, True, False]
    assert export.untold == 2
    assert sentences_of(export, Wanted())[0].startswith(
        "Left out: 2 predictions without an outcome, made too"
    )


def test_outcomes_before_the_range_say_who_waits_no_more_and_are_no_rows() -> None:
    it, export = desk(Wanted(pending=True, begin=Edge(None, 1_000)))
    it.begin(5)

    assert it.outcome(found(at=4)) is None
    assert it.prediction(predicted(7)) is None
    assert it.prediction(predicted(8, timestamp=999)) is None
    assert it.prediction(predicted(8)) is not None
    assert export.states == Counter(pending=1)


def test_each_partition_has_its_own_questions() -> None:
    it, _ = desk(Wanted(pending=True))
    it.outcome(found())

    it.begin(0)

    assert it.prediction(predicted(7)) is not None


def test_a_text_like_a_formula_is_told() -> None:
    it, export = desk(Wanted())
    export.formulas = 0

    it.outcome(found(id="=1+1"))

    assert sentences_of(export, Wanted())[0].startswith("1 text would be taken for formulas by a spreadsheet")
    assert len(sentences_of(export, Wanted(spreadsheet=True))) == 1


@pytest.mark.parametrize("text", ["yesterday", "2026-11-20", "2026-11-20T10:00:00", "-1", "1.5", "", "٣"])
def test_an_end_of_a_range_is_an_offset_or_a_time_with_its_zone(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--to: is .*; expected an offset, or a time with its zone"):
        edge_of(text, "--to")


# --- Files -----------------------------------------------------------------------------------------------


def test_no_more_rows_are_held_than_a_row_group_has(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        written: list[int] = []  # noqa: RUF012 - of one test

        def write(self, rows: Sequence[Row]) -> None:
            self.written.append(len(rows))

        def close(self) -> None:
            pass

    sink: Sink = Counting()
    monkeypatch.setattr(outcomes, "ROWS", 10)
    monkeypatch.setattr(outcomes, "ROWS_BYTES", 1_000)
    buffer = Buffer(sink)

    for _ in range(25):
        buffer.add((), 1)
    buffer.add((), 1_000)
    buffer.flush()
    buffer.flush()

    assert Counting.written == [10, 10, 6]


def test_a_parquet_file_has_typed_columns_whatever_the_rows_hold(tmp_path: Path) -> None:
    kinds = {}
    for task in ("binary", "multiclass", "regression"):
        with replaced(tmp_path / f"{task}.parquet") as file:
            ParquetSink(file, columns(task)).close()
        schema = pq.read_schema(tmp_path / f"{task}.parquet")
        kinds[task] = [str(kind) for kind in schema.types]
        assert schema.names == [column.name for column in columns(task)]

    times = ["timestamp[us, tz=UTC]"] * 2
    first = ["string", "string", "int64", "int64", "int64", *times]
    last = ["double", "int64", "timestamp[us, tz=UTC]"]
    assert kinds == {
        "binary": [*first, "bool", "bool", "int64", *last],
        "multiclass": [*first, "string", "string", "int64", *last],
        "regression": [*first, "double", "double", "double", *last],
    }


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text("old")

    def fail() -> None:
        with replaced(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert [file.name for file in tmp_path.iterdir()] == ["all.csv"]
    assert path.read_text() == "old"

    with replaced(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"

    assert [file.name for file in tmp_path.iterdir()] == ["all.csv"]
    assert path.read_text() == "new"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")

    with replaced(tmp_path / "link.csv") as file:
        file.write(b"new")

    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourcesExhausted, match=r"all.csv can't be written: No space left"),
        replaced(tmp_path / "all.csv"),
    ):
        raise OSError(28, "No space left on device")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--output: is '.*/no/all.csv', which can't be written: No such file"
    ):
        replaced(tmp_path / "no" / "all.csv").__enter__()


# --- What is refused before anything is asked --------------------------------------------------------------

WITH = settings_for(topics={"events": "events", "outcomes": "p.outcomes"})


def test_without_an_outcomes_topic_it_is_said_how_to_have_one() -> None:
    with pytest.raises(EnvironmentRefused, match=r'\[topics\] outcomes is missing.*outcomes = "p.outcomes"'):
        export(settings_for(), Wanted())


@pytest.mark.parametrize("name", ["all", "all.txt", "all.csv.gz", "."])
def test_another_kind_of_file_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--output: is .*; expected the name of a .csv or .parquet file, or -"
    ):
        export(WITH, Wanted(output=Path(name)))


def test_pending_needs_times_and_not_offsets() -> None:
    with pytest.raises(ConfigError, match="--pending: needs times in --from and --to"):
        export(WITH, Wanted(pending=True, begin=Edge(7, None)))


def test_pending_is_refused_where_predictions_are_repeated_without_a_mark() -> None:
    settings = settings_for(
        topics={"events": "events", "outcomes": "p.outcomes"}, event={"duplicates": "repeat"}
    )

    with pytest.raises(ConfigError, match=r'\[event\] duplicates is "repeat"; expected "mark" or "drop"'):
        export(settings, Wanted(pending=True))


def test_an_apostrophe_for_spreadsheets_is_for_csv() -> None:
    with pytest.raises(ConfigError, match="--spreadsheet: is for CSV, and --output is Parquet"):
        export(WITH, Wanted(spreadsheet=True, output=Path("all.parquet")))


def test_without_pyarrow_parquet_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(EnvironmentRefused, match=r'pip install "headrace\[parquet\]" \(or export CSV\)'):
        export(WITH, Wanted(output=Path("all.parquet")))
