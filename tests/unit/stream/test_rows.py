from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest

from stream import rows
from stream.rows import RowError, read_rows
from stream.settings import Settings


def settings(**event: object) -> Settings:
    return Settings.model_validate(
        {
            "name": "test",
            "task": "binary",
            "topics": {"events": "test"},
            "event": event,
            "learner": {"use": "logistic-regression"},
        }
    )


def read(tmp_path: Path, text: str | bytes, name: str = "rows.csv", **event: object) -> list[Any]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [orjson.loads(value) for _, value in read_rows(path, None, settings(**event))]


def refusal(tmp_path: Path, text: str | bytes, name: str = "rows.csv", **event: object) -> str:
    with pytest.raises(RowError) as caught:
        read(tmp_path, text, name, **event)
    return str(caught.value).removeprefix(f"{tmp_path}/")


def test_csv_values_become_numbers_booleans_and_text_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, "a,b,c,d,e\n1,-2.5e3,true,DE,\n", features=["a", "b", "c", "d", "e"])

    assert found == [{"a": 1, "b": -2500.0, "c": True, "d": "DE"}]
    assert type(found[0]["a"]) is int


def test_what_only_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    found = read(tmp_path, "a,b,c,d\n007,1_000,1e999,0x10\n", features=["a", "b", "c", "d"])

    assert found == [{"a": "007", "b": "1_000", "c": "1e999", "d": "0x10"}]


def test_columns_go_into_the_one_field_that_holds_features_and_the_rest_beside_it(tmp_path: Path) -> None:
    found = read(
        tmp_path, "key,when,amount,country,is_fraud\n17,5,2.5,DE,1\n", id="key", time="when", label="is_fraud"
    )

    assert found == [{"key": "17", "when": 5, "is_fraud": 1, "features": {"amount": 2.5, "country": "DE"}}]


def test_an_answer_has_no_empty_object_of_features(tmp_path: Path) -> None:
    assert read(tmp_path, "id,amount,label\na,,1\n") == [{"id": "a", "label": 1}]


def test_a_label_that_is_compared_with_a_text_stays_text(tmp_path: Path) -> None:
    assert read(tmp_path, "f,label\n1,2\n", positive="2") == [{"label": "2", "features": {"f": 1}}]
    assert read(tmp_path, "f,label\n1,2\n", positive=2) == [{"label": 2, "features": {"f": 1}}]


def test_separators_quotes_and_a_byte_order_mark_are_understood(tmp_path: Path) -> None:
    expected = [{"a": "x, y", "b": 1}]

    assert read(tmp_path, 'a,b\r\n"x, y",1\r\n', features=["a", "b"]) == expected
    assert read(tmp_path, 'a;b\n"x, y";1\n', features=["a", "b"]) == expected
    assert read(tmp_path, "a\tb\nx, y\t1\n", name="rows.tsv", features=["a", "b"]) == expected
    assert read(tmp_path, b'\xef\xbb\xbfa,b\n"x, y",1\n', features=["a", "b"]) == expected


def test_lines_are_counted_as_an_editor_does_also_after_a_value_of_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n"one\ntwo",1\n\nthree,3\n')

    assert [line for line, _ in read_rows(path, None, settings(features=["a", "b"]))] == [2, 5]


def test_json_lines_go_as_they_are_good_or_bad_and_blank_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\n{"a": 1.50}\n\xff garbage\n\n[1]\r\n')

    assert list(read_rows(path, None, settings())) == [(2, b'{"a": 1.50}'), (3, b"\xff garbage"), (5, b"[1]")]


def test_without_a_telling_name_the_first_character_decides(tmp_path: Path) -> None:
    assert read(tmp_path, '\n{"a": 1}\n', name="rows.txt") == [{"a": 1}]
    assert read(tmp_path, "\na\n1\n", name="rows.txt", features=["a"]) == [{"a": 1}]


def test_a_first_line_longer_than_what_is_looked_at_is_whole(tmp_path: Path) -> None:
    text = '{"a": "' + "x" * rows.HEAD_BYTES + '"}\n{"a": 1}\n'

    assert read(tmp_path, text, name="rows.jsonl") == [{"a": "x" * rows.HEAD_BYTES}, {"a": 1}]


def test_standard_input_is_read_without_rewinding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BufferedReader(io.BytesIO(b"f,label\n1,0\n"))

    monkeypatch.setattr("sys.stdin", Stdin)

    assert list(read_rows(None, None, settings())) == [(2, b'{"label":0,"features":{"f":1}}')]


def test_an_empty_json_file_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, "", name="rows.jsonl") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,2\n1\n", "rows.csv:3: the row has 1 values; expected 2, as the header has."),
        ("a,b\n1,2,3\n", "rows.csv:2: the row has 3 values; expected 2, as the header has."),
        ("a,,b\n", "rows.csv:1: column 2 has no name; expected a header (CSV)."),
        ("a,b,a\n", 'rows.csv:1: column "a" is there 2 times; expected it once.'),
        ('a,b\n1,2\n"x,1\n', "rows.csv:3: this is not CSV: unexpected end of data."),
        (b"a,b\n1,\xff\n", "rows.csv:2: byte 3 of the line is not UTF-8; save the file as UTF-8."),
        ("", "rows.csv: it is empty; expected a header and rows (CSV)."),
    ],
)
def test_what_is_not_csv_is_refused_with_its_place(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert refusal(tmp_path, text, features={"except": []}) == expected


def test_a_feature_without_a_column_is_refused_unless_the_file_holds_answers(tmp_path: Path) -> None:
    assert refusal(tmp_path, "amonut,label\n1,1\n", features=["amount"]) == (
        'rows.csv:1: there is no column "amount" (did you mean "amonut"?), which [event] features names; '
        "add it, with empty values if there are none, or take it out of the settings."
    )
    assert read(tmp_path, "id,label\na,1\n", features=["amount"]) == [{"id": "a", "label": 1}]


def test_a_json_list_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "expected JSON Lines" in refusal(tmp_path, '[{"a": 1}]', name="rows.json")
    with pytest.raises(RowError, match=r"gone\.csv: there is no such file"):
        list(read_rows(tmp_path / "gone.csv", None, settings()))
    with pytest.raises(RowError, match="this is a folder"):
        list(read_rows(tmp_path, None, settings()))
