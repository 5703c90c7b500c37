from __future__ import annotations

import zlib

import pytest

from stream.rows import Row, RowError
from stream.settings import Settings
from stream.tools.cluster import murmur2
from stream.tools.send import Addressed, SendOptions, address, paced


def settings(**event: object) -> Settings:
    return Settings.model_validate(
        {
            "name": "p",
            "task": "binary",
            "topics": {"events": "clicks"},
            "event": event,
            "learner": {"use": "logistic-regression"},
        }
    )


def addressed(*values: bytes, options: SendOptions | None = None, **event: object) -> list[Addressed]:
    rows = [Row(line, value) for line, value in enumerate(values, start=1)]
    return list(address(rows, "f.jsonl", settings(**event), options or SendOptions(), 4))


@pytest.mark.parametrize(
    ("key", "java"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_murmur2_is_javas(key: bytes, java: int) -> None:
    assert murmur2(key) == java & 0x7FFFFFFF


def test_the_key_is_the_events_id_so_that_an_answer_gets_to_its_question() -> None:
    question, answer = addressed(b'{"id": "a7", "features": {"f": 1}}', b'{"id": "a7", "label": true}')

    assert question.key == answer.key == b"a7"
    assert question.partition == answer.partition == murmur2(b"a7") % 4


def test_a_number_as_id_gives_the_key_that_it_gives_as_text_in_a_csv_file() -> None:
    assert [row.key for row in addressed(b'{"id": 17}', b'{"id": "17"}')] == [b"17", b"17"]


def test_rows_without_an_id_have_no_key_and_go_to_each_partition_in_turn() -> None:
    rows = addressed(*[b'{"features": {}}'] * 6)

    assert [(row.key, row.partition) for row in rows] == [(None, i) for i in (0, 1, 2, 3, 0, 1)]


def test_the_key_can_be_any_field_also_one_among_the_features() -> None:
    options = SendOptions(key="card")

    rows = addressed(b'{"id": 1, "card": "x"}', b'{"id": 2, "features": {"card": "x"}}', options=options)

    assert [row.key for row in rows] == [b"x", b"x"]


def test_a_row_without_the_named_key_is_refused_with_its_place() -> None:
    with pytest.raises(RowError, match=r'^f.jsonl:2: there is no field "card", which --key names'):
        addressed(b'{"card": 1}', b'{"id": 1}', options=SendOptions(key="card"))


def test_crc32_puts_a_key_where_librdkafka_does() -> None:
    (row,) = addressed(b'{"id": "a7"}', options=SendOptions(partitioner="crc32"))

    assert row.partition == zlib.crc32(b"a7") % 4


def test_one_partition_can_be_named() -> None:
    rows = addressed(b'{"id": "a"}', b'{"id": "b"}', options=SendOptions(partition=3))

    assert [(row.key, row.partition) for row in rows] == [(b"a", 3), (b"b", 3)]


def test_no_key_leaves_the_id_out() -> None:
    (row,) = addressed(b'{"id": "a"}', options=SendOptions(no_key=True))

    assert row.key is None


@pytest.mark.parametrize("value", [b"garbage", b"[1]", b"3", b'{"id": ', b'{"id": NaN}'])
def test_what_is_no_json_object_is_refused_with_its_place(value: bytes) -> None:
    with pytest.raises(RowError, match=r"^f.jsonl:2: this is .* --raw sends it as it is"):
        addressed(b"{}", value)


def test_raw_sends_anything_byte_for_byte() -> None:
    rows = addressed(b"garbage", b"[1]", b'{"id":  "a"}', options=SendOptions(raw=True, key="id"))

    assert [row.value for row in rows] == [b"garbage", b"[1]", b'{"id":  "a"}']
    assert [row.key for row in rows] == [None, None, b"a"]


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_rate_spaces_the_rows_evenly() -> None:
    time = Time()
    rows = [Addressed(i, None, b"", 0) for i in range(5)]

    times = [time.now for _ in paced(rows, 10, time.clock, time.sleep)]

    assert times == pytest.approx([100.0, 100.1, 100.2, 100.3, 100.4])


def test_a_pause_is_not_made_up_for_by_a_burst() -> None:
    time = Time()
    rows = [Addressed(i, None, b"", 0) for i in range(4)]
    times = []

    for row in paced(rows, 10, time.clock, time.sleep):
        times.append(time.now)
        if row.line == 1:
            time.now += 60.0

    assert times == pytest.approx([100.0, 100.1, 160.1, 160.2])
