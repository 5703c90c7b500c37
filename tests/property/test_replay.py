from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.codec import dead_letter
from stream.errors import RecordError
from stream.records import STAGES, Record, Stage
from stream.tools.cluster import Found
from stream.tools.dead_letters import ATTEMPT, REPLAYED_FROM, UNREADABLE, letter_of
from stream.tools.replay import Place, Rules, Selection, event_headers, picked

RULES = Rules(pipeline="p", events="clicks", partitions=1, most_bytes=10**9, max_attempts=1_000)
NAMES = st.sampled_from(
    ["a", "", "headrace.pipeline", "headrace.stage", "headrace.position", ATTEMPT, REPLAYED_FROM, UNREADABLE]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
OF_A_REPLAY = (ATTEMPT, REPLAYED_FROM, UNREADABLE)


def letter(record: Record, at: int, stage: str = "decode") -> Found:
    """What the worker writes for a record."""
    output = dead_letter(record, pipeline="p", topic="clicks", stage=stage, error=RecordError("no"))
    return Found("p.dead-letters", 0, at, record.timestamp, output.key, output.value, output.headers or ())


@given(
    key=st.none() | st.binary(max_size=4),
    value=st.binary(max_size=8),
    headers=st.lists(st.tuples(NAMES, st.binary(max_size=4)), max_size=6),
    times=st.integers(1, 5),
)
def test_however_often_an_event_fails_it_keeps_its_bytes_and_no_header_piles_up(
    key: bytes | None, value: bytes, headers: list[tuple[str, bytes]], times: int
) -> None:
    own = [item for item in headers if item[0] not in OF_A_REPLAY]
    record = Record(0, 5, 1_000, key, value, own)

    for attempt in range(1, times + 1):
        read = letter_of(letter(record, attempt))
        assert read is not None
        assert RULES.reason_to_leave(read) is None
        record = Record(0, 5 + attempt, 1_000, read.key, read.value, event_headers(read))

    assert (record.key, record.value) == (key, value)
    assert record.headers == [*own, (ATTEMPT, str(times).encode()), (REPLAYED_FROM, b"clicks[0]@5")]


@given(
    stages=st.lists(st.sampled_from([*STAGES, None]), max_size=20),
    runs=st.lists(
        st.tuples(st.sets(st.sampled_from(STAGES), min_size=1), st.integers(1, 6), st.integers(1, 4)),
        max_size=8,
    ),
)
def test_replays_of_any_stages_and_limits_send_each_dead_letter_once_and_in_order(
    stages: list[Stage | None], runs: list[tuple[set[Stage], int, int]]
) -> None:
    records = [  # None: an offset without a record, as of a transaction's end
        letter(Record(0, at, 1_000, None, b"x"), at, stage)
        for at, stage in enumerate(stages)
        if stage is not None
    ]
    place = Place.at(0)
    sent: list[int] = []
    everything: tuple[set[Stage], int, int] = (set(STAGES), 100, 3)

    for wanted, limit, size in [*runs, everything, everything]:
        chosen = [stage for stage in STAGES if stage in wanted]
        expected = [r.offset for r in records if stages[r.offset] in wanted and r.offset not in sent][:limit]
        rules = Rules(
            pipeline="p", events="clicks", partitions=1, most_bytes=10**9, max_attempts=3, stages=chosen
        )
        rest = [record for record in records if record.offset >= place.next_offset(chosen)]
        polls = iter([rest[i : i + size] for i in range(0, len(rest), size)])
        begun = len(sent)
        for batch in picked(0, polls, place, len(stages), Selection(rules, limit)):
            sent += [item.letter_offset for item in batch.letters]
            committed = Place.from_commit(batch.place.to_commit(topic_id="x", run="r"), "x")
            assert committed == batch.place
            place = committed
        assert sent[begun:] == expected

    assert sorted(sent) == [record.offset for record in records]
