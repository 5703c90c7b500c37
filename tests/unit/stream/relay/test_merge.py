from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from stream.decoding import new_decoder, new_label_decoder
from stream.records import Record
from stream.relay.log import SourceRecord
from stream.relay.merge import MOST_BYTES, MOST_RECORDS, chunks, merged
from tests.helpers import body
from tests.unit.stream.relay.memory import relay_settings


def when(record: SourceRecord) -> float:
    return record.timestamp


def log(topic: str, times: list[int]) -> list[SourceRecord]:
    return [SourceRecord(topic, 0, number, time, None, b"v", None) for number, time in enumerate(times)]


TIMES = st.lists(st.integers(0, 20), max_size=20)


@given(st.lists(TIMES.map(sorted), min_size=1, max_size=4))
def test_logs_in_order_become_one_in_order_and_of_equal_times_the_first_log_comes_first(
    times: list[list[int]],
) -> None:
    logs = [log(str(number), it) for number, it in enumerate(times)]

    found = list(merged([(it, when) for it in logs]))

    assert found == sorted((r for it in logs for r in it), key=lambda r: (r.timestamp, r.topic, r.offset))


@given(st.lists(TIMES, min_size=1, max_size=4))
def test_each_log_keeps_its_own_order_whatever_its_times(times: list[list[int]]) -> None:
    logs = [log(str(number), it) for number, it in enumerate(times)]

    found = list(merged([(it, when) for it in logs]))

    for number, it in enumerate(logs):
        assert [r for r in found if r.topic == str(number)] == it


@given(st.lists(TIMES, min_size=2, max_size=3), st.data())
def test_what_is_interrupted_anywhere_goes_on_to_the_same_log(
    times: list[list[int]], data: st.DataObject
) -> None:
    logs = [log(str(number), it) for number, it in enumerate(times)]
    whole = list(merged([(it, when) for it in logs]))
    cut = data.draw(st.integers(0, len(whole)))

    done = whole[:cut]
    rest = [[r for r in it if r not in done] for it in logs]

    assert done + list(merged([(it, when) for it in rest])) == whole


def test_no_more_is_read_than_the_next_record_of_each_log() -> None:
    read = [0, 0]

    def endless(number: int) -> Iterator[SourceRecord]:
        for time in range(10**9):
            read[number] += 1
            yield SourceRecord(str(number), 0, time, time, None, None, None)

    found = merged([(endless(0), when), (endless(1), when)])
    for _ in range(1_000):
        next(found)

    assert max(read) <= 502


def test_a_chunk_is_bounded_in_records_and_bytes() -> None:
    small = [SourceRecord("a", 0, n, 0, None, b"v", None) for n in range(MOST_RECORDS * 2 + 1)]
    large = [SourceRecord("a", 0, n, 0, None, b"v" * (MOST_BYTES // 2), None) for n in range(5)]

    assert [len(chunk) for chunk in chunks(small)] == [MOST_RECORDS, MOST_RECORDS, 1]
    assert [len(chunk) for chunk in chunks(large)] == [2, 2, 1]


def test_the_time_of_a_record_is_what_it_says_itself_if_that_can_be_used() -> None:
    settings = relay_settings(event={"time": "at"}, labels={"topic": "labels", "time": "told"})
    events, labels = new_decoder(settings), new_label_decoder(settings)

    def record(value: bytes | None) -> Record:
        return Record(0, 0, 5_000, None, value)

    assert events.time_of(record(body(at=3))) == 3.0
    assert labels.time_of(record(body(at=3, told=4))) == 4.0
    for bad in (None, b"\xff", b"[]", b"7", body(), body(at=None), body(at="x"), body(at=10**9)):
        assert events.time_of(record(bad)) is None
    assert new_decoder(relay_settings()).time_of(record(body(at=3))) is None
