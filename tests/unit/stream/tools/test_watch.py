from __future__ import annotations

from typing import Any

import orjson

from stream.codec import dead_letter
from stream.errors import RecordError
from stream.records import Record
from stream.tools.cluster import Found
from stream.tools.watch import Output, Seen, body_of, line_of


def found(value: bytes | None, *headers: tuple[str, bytes | None], key: bytes | None = None) -> Found:
    return Found("p.out", 2, 9, 1_000, key, value, headers)


def line(output: Output, body: dict[str, Any]) -> str:
    return line_of(Seen(output, body), "clicks")


def test_a_prediction_is_shown_with_position_id_and_top_score() -> None:
    body = {
        "id": "a",
        "partition": 3,
        "offset": 1042,
        "prediction": "rain",
        "scores": {"rain": 0.7, "snow": 0.3},
        "learned": 12,
    }

    assert line("prediction", body) == "clicks[3]@1042  a:  rain (0.700)  learned 12"


def test_a_number_is_shown_without_a_score_and_none_in_words() -> None:
    body = {"id": None, "partition": 0, "offset": 1, "prediction": 2.5, "learned": 0}

    assert line("prediction", body) == "clicks[0]@1  2.5  learned 0"
    assert line("prediction", body | {"prediction": None}) == "clicks[0]@1  no prediction yet  learned 0"


def test_an_alert_is_shown_with_what_changed() -> None:
    body = {
        "kind": "drift",
        "watch": "error",
        "detector": "adwin",
        "partition": 0,
        "offset": 2000,
        "mean_before": 0.1,
        "mean_after": None,
    }

    assert line("alert", body) == "clicks[0]@2000  DRIFT  error by adwin: mean 0.1 before, ? after"


def test_a_dead_letter_as_the_pipeline_writes_it_is_shown_with_its_reason() -> None:
    record = Record(1, 7, 1_000, b"k", b"\xffgarbage", [("mine", b"1"), ("headrace.stage", b"forged")])
    letter = dead_letter(record, pipeline="p", topic="clicks", stage="decode", error=RecordError("no JSON"))

    body = body_of("dead_letter", found(letter.value, *(letter.headers or ()), key=letter.key))

    assert body == {
        "output": "dead_letter",
        "position": "clicks[1]@7",
        "stage": "decode",
        "error": "RecordError",
        "message": "no JSON",
        "key": "k",
        "value": "�garbage",
    }
    assert line("dead_letter", body) == "clicks[1]@7  DEAD LETTER  decode: no JSON  �garbage"


def test_nothing_of_an_event_reaches_the_terminal_as_a_command() -> None:
    body = {"id": "\x1b]0;owned\x07\x9b2J", "partition": 0, "offset": 0, "prediction": True, "learned": 0}

    assert line("prediction", body).isprintable()


def test_a_record_that_somebody_else_wrote_is_named_with_its_position() -> None:
    body = body_of("prediction", found(b"not ours"))

    assert line("prediction", body) == "p.out[2]@9 is no prediction: somebody else wrote it"


def test_json_holds_all_that_the_prediction_says_and_its_key() -> None:
    said = {"id": 1, "partition": 0, "offset": 0, "prediction": True}

    body = body_of("prediction", found(orjson.dumps(said), key=b"\xff"))

    assert body == {"output": "prediction", "key": "�", **said}
