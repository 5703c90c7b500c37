from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stream import keyed
from stream.build import new_pipeline, open_keeper
from stream.checkpoint import state_shape
from stream.settings import Settings, load_settings
from stream.snapshots.file import Fold, Header
from stream.tools.snapshots import Entry, SnapshotTool, lines_of, superfluous, table_of
from tests.helpers import body, free_port, record

HOSTILE = "\x1b[2J\x9b31m[bold]evil[/bold]\r\n\u202e:smile:"


def entry(number: int = 7, partition: int = 0, **fields: Any) -> Entry:
    header = fields.pop("header", {})
    values: dict[str, Any] = {
        "name": f"{partition}/{number:020d}-0123456789abcdef.snapshot",
        "partition": partition,
        "next_offset": number,
        "size": 12_345,
        "refused": "",
        "committed": False,
        "header": None
        if header is None
        else Header(
            **(
                {
                    "pipeline": "p",
                    "topic": "events",
                    "topic_id": "t-1",
                    "partition": partition,
                    "origin": 0,
                    "base": "",
                    "shape": {"learner": "1f", "river": "0.26.1"},
                    "next_offset": number,
                    "learner": "LogisticRegression",
                    "learned": 1_000,
                    "headrace": "0.1.0",
                    "created_at": 1_700_000_000.0,
                    "payload_bytes": 12_000,
                    "payload_sha256": "ab" * 32,
                    "probe": [({"a": 1.5}, '{"prediction":true}')],
                }
                | header
            )
        ),
    }
    return Entry(**(values | fields))


def shown(entries: list[Entry]) -> str:
    out = io.StringIO()
    Console(file=out, markup=False, highlight=False, emoji=False, width=200).print(table_of(entries))
    return out.getvalue()


def test_a_table_has_a_line_for_each_snapshot() -> None:
    lines = shown(
        [entry(50, committed=True), entry(40), entry(30, header=None, refused="is damaged")]
    ).splitlines()

    assert [line.split() for line in lines if "snapshot" in line] == [
        ["0/00000000000000000050-0123456789abcdef.snapshot", "50", "1,000", "LogisticRegression", "2023-11-14",
         "22:13:20", "12,345", "committed"],
        ["0/00000000000000000040-0123456789abcdef.snapshot", "40", "1,000", "LogisticRegression", "2023-11-14",
         "22:13:20", "12,345"],
        ["0/00000000000000000030-0123456789abcdef.snapshot", "30", "12,345", "not", "to", "be", "used"],
    ]  # fmt: skip


def test_all_that_a_snapshot_says_is_shown_a_line_each() -> None:
    lines = list(lines_of(entry(50, committed=True, header={"origin": 1_000, "base": "cd" * 32})))

    assert "partition      events[0] (topic id t-1)" in lines
    assert "state          of the records from 1,000 up to 50" in lines
    assert f"before that    rows of a file with SHA-256 {'cd' * 32}" in lines
    assert "learner        LogisticRegression, 1,000 labels learned" in lines
    assert "written        2023-11-14 22:13:20 UTC by Headrace 0.1.0" in lines
    assert "  river        0.26.1" in lines
    assert 'predicts       {"prediction":true} on {"a":1.5}' in lines
    assert lines[-2:] == ["committed      yes", "usable         as far as its header tells"]


@pytest.mark.parametrize(
    ("fields", "last"),
    [
        ({"committed": None}, ["committed      not known", "usable         as far as its header tells"]),
        ({"header": None, "refused": "is damaged."}, ["committed      no", "usable         no: is damaged."]),
    ],
)
def test_what_is_not_known_is_said(fields: dict[str, Any], last: list[str]) -> None:
    assert list(lines_of(entry(**fields)))[-2:] == last


def test_nothing_in_a_snapshot_reaches_the_terminal_but_as_text() -> None:
    """Names of classes come from the user's learner, features and classes from whoever sends events."""
    hostile = {
        "learner": HOSTILE,
        "topic_id": HOSTILE,
        "shape": {HOSTILE: HOSTILE},
        "probe": [({HOSTILE: HOSTILE}, HOSTILE)],
    }
    found = entry(header=hostile, refused=HOSTILE)

    text = shown([found]) + "\n".join(lines_of(found))

    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[bold]evil[/bold]" in text
    assert ":smile:" in text


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (1, [30, 20, 10]),
        (2, [20, 10]),
        (9, []),
    ],
)
def test_prune_leaves_the_newest(keep: int, gone: list[int]) -> None:
    entries = [entry(number) for number in (40, 30, 20, 10)]

    assert [e.next_offset for e in superfluous(entries, keep)] == gone


def test_prune_leaves_what_the_commit_names_and_counts_each_partition_by_itself() -> None:
    entries = [
        *(entry(number, committed=number == 20) for number in (40, 30, 20, 10)),
        *(entry(number, partition=1) for number in (5, 4)),
    ]

    assert [(e.partition, e.next_offset) for e in superfluous(entries, 1)] == [(0, 30), (0, 10), (1, 4)]


def test_prune_never_takes_the_last_one_that_can_be_used() -> None:
    broken = [entry(number, refused="damaged") for number in (50, 40)]

    assert list(superfluous([*broken, entry(30)], 1)) == []
    assert [e.next_offset for e in superfluous([*broken, entry(30), entry(20, refused="old")], 1)] == [20]
    assert list(superfluous([entry(number, refused="other settings") for number in (3, 2, 1)], 1)) == []


# Segments -------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose directory has two snapshots with segments; no broker answers."""
    monkeypatch.setattr(keyed, "SEGMENT_ITEMS", 8)
    path = tmp_path / "p.toml"
    path.write_text(
        'name = "p"\ntask = "regression"\n[kafka]\n'
        f'bootstrap_servers = "127.0.0.1:{free_port()}"\n[topics]\nevents = "events"\n'
        '[learner]\nuse = "linear-regression"\n'
    )
    settings = load_settings(path)
    keeper = open_keeper(settings, start=lambda job: job())
    pipeline = new_pipeline(settings)
    fold = Fold(
        pipeline="p",
        topic="events",
        topic_id="t",
        partition=0,
        origin=0,
        base="",
        shape=state_shape(settings),
    )
    for last in (40, 60):
        for i in range(last - 40, last):
            pipeline.process(record(body(id=i, features={"a": i}), offset=i))
        keeper.take(pipeline.state, replace(fold), last)
        (taken,) = keeper.collect()
        assert taken.name is not None
    return settings


def test_sizes_count_segments_and_a_missing_or_damaged_one_is_told(with_segments: Settings) -> None:
    tool = SnapshotTool(with_segments)
    newest, older = tool.entries()
    assert (newest.header is not None, older.header is not None) == (True, True)
    folder = Path(tool.address) / "0"
    assert newest.size == (Path(tool.address) / newest.name).stat().st_size + sum(
        file.stat().st_size for file in folder.glob("*.segment")
    )
    assert newest.size > older.size
    assert [tool.verify(entry) for entry in (newest, older)] == ["", ""]
    assert "segments       7, with " in "\n".join(lines_of(newest))
    assert newest.to_dict()["header"]["segments"] == 7  # type: ignore[index]  # of a header
    only = {name for name, _, _ in newest.header.segments} - {name for name, _, _ in older.header.segments}  # type: ignore[union-attr]
    hurt = Path(tool.address) / min(only)
    hurt.write_bytes(b"x" * hurt.stat().st_size)

    assert [entry.refused for entry in tool.entries()] == ["", ""]  # a digest is not looked at
    assert f"its segment {min(only)} has the digest" in tool.verify(newest)
    assert tool.verify(older) == ""

    hurt.unlink()
    found = [entry.refused for entry in tool.entries()]
    assert found == [f"{newest.name}: its segment {min(only)} is missing.", ""]


def test_pruning_deletes_the_segments_that_no_snapshot_names_any_more(with_segments: Settings) -> None:
    tool = SnapshotTool(with_segments)
    tool.no_broker = ""  # as if one had answered that nothing is committed
    newest, older = tool.entries()
    old = Path(tool.address) / "0" / f"{1:012d}-{'ab' * 16}.segment"
    old.write_bytes(b"what a dead writer left")
    assert older.header is not None
    assert newest.header is not None

    assert [entry.name for entry in tool.prune(1, dry_run=True)] == [older.name]
    assert old.exists()
    assert [entry.name for entry in tool.prune(1, dry_run=False)] == [older.name]

    left = {f"0/{file.name}" for file in (Path(tool.address) / "0").iterdir()}
    assert left == {newest.name, *(name for name, _, _ in newest.header.segments)}
    assert tool.verify(newest) == ""
