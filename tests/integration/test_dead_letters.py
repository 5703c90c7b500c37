"""Promise 4 on a real broker: bad input stops nothing and disappears nowhere."""

from __future__ import annotations

import textwrap
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Producer

from stream.broker import Broker
from stream.codec import MAX_RECORD_BYTES
from tests.support import Incoming, KafkaCase, Written, labelled, whole_seconds_ago

pytestmark = pytest.mark.integration

#: A timestamp that is not of now, in milliseconds.
EARLIER = whole_seconds_ago(7_200) * 1_000
#: The largest value that a broker takes with its default limit of 1,048,588 bytes a batch.
LARGEST = 1_048_500
ODD_HEADERS = (
    ("trace", b"\x00\xff\xfe\x80"),
    ("trace", b"again"),
    ("nothing", None),
    ("empty", b""),
    ("", b"no name"),
    ("näme", b"\xc3"),
)

BAD: dict[str, Incoming] = {
    "tombstone": Incoming(0, None, key=b"k"),
    "not JSON": Incoming(0, b"{nope", key=b"k", headers=ODD_HEADERS),
    "empty": Incoming(0, b"", key=b""),
    "invalid UTF-8": Incoming(0, b'{"label": "\xff\xfe"}', key=b"\xff\x00"),
    "a list": Incoming(0, b"[1, 2]"),
    "empty object": Incoming(0, b"{}"),
    "label without id": Incoming(0, b'{"label": true}'),
    "wrong label": Incoming(0, b'{"features": {"a": 1}, "label": "perhaps"}'),
    "not finite": Incoming(0, b'{"features": {"a": 1e999}, "label": true}'),
    "nested": Incoming(0, b'{"features": {"a": {"b": 1}}, "label": true}'),
    "above the cap": Incoming(0, labelled(1).value, key=b"k")._replace(
        value=b'{"x": "' + b"y" * MAX_RECORD_BYTES + b'"}'
    ),
    "the largest": Incoming(0, b"\x07" * LARGEST, timestamp=EARLIER),
    # A prediction carries its event's key: with this one it would be too large for its topic.
    "a large key": Incoming(0, b'{"features": {"a": 1}, "label": 1}', key=b"k" * (LARGEST - 40)),
}


def test_bad_records_go_byte_for_byte_to_the_dead_letter_topic_with_their_reason(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    records: list[Incoming] = []
    for number, bad in enumerate(BAD.values()):
        records += [labelled(number), bad]
    records.append(labelled(99))
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        produce(case, records)

        case.run_to_end()

        assert case.assert_exactly_once() == len(BAD) + 1
        (events,) = case.read("events").values()
        (letters,) = case.read("dead_letters").values()
        assert len(letters) == len(BAD)
        for name, event, letter in zip(BAD, events[1::2], letters, strict=True):
            assert_is_letter_of(event, letter, case, name)
        (status,) = case.statuses().values()
        assert status["dead_letters"] == len(BAD)
        assert status["events"] == status["predictions"] == len(BAD) + 1


def produce(case: KafkaCase, records: list[Incoming], **config: str) -> None:
    """Write with librdkafka, which also writes null header values and takes large records to compress."""
    producer = Producer(
        {"bootstrap.servers": case.servers, "message.max.bytes": 10_000_000, "linger.ms": 0, **config}
    )
    for record in records:
        producer.produce(
            case.topic("events"),
            record.value,
            record.key,
            record.partition,
            timestamp=record.timestamp or 0,
            headers=list(record.headers),
        )
        assert producer.flush(60) == 0  # one batch each: together they would be larger than the broker takes


def assert_is_letter_of(
    event: Written, letter: Written, case: KafkaCase, name: str, stage: str = "decode"
) -> None:
    """Key, value, timestamp and headers are the event's; what follows says where it stood and why it is here."""
    assert (letter.key, letter.value, letter.timestamp) == (event.key, event.value, event.timestamp), name
    count = len(event.headers)
    assert letter.headers[:count] == event.headers, name
    ours = dict(letter.headers[count:])
    topic = case.topic("events")
    assert {
        key: value for key, value in ours.items() if key not in ("headrace.error", "headrace.message")
    } == {
        "headrace.pipeline": case.name.encode(),
        "headrace.position": f"{topic}[0]@{event.offset}".encode(),
        "headrace.topic": topic.encode(),
        "headrace.partition": b"0",
        "headrace.offset": str(event.offset).encode(),
        "headrace.stage": stage.encode(),
    }
    if stage == "decode":
        assert ours["headrace.error"] == b"RecordError"
    assert ours["headrace.message"], name


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_small_compressed_record_that_is_large_when_unpacked_is_a_dead_letter(
    broker: Broker, tmp_path: Path, topic_name: str, compression: str
) -> None:
    large = orjson.dumps({"features": {"a": 1.0}, "label": True, "padding": "x" * 6_000_000})
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        bad = Incoming(0, large, b"key", (("a", b"1"), ("a", None)), EARLIER)
        produce(case, [labelled(0), bad, labelled(1)], **{"compression.type": compression})

        case.run_to_end()

        assert [record.json["offset"] for record in case.read("predictions")[0]] == [0, 2]
        (letter,) = case.read("dead_letters")[0]
        event = Written(1, EARLIER, b"key", large, tuple(bad.headers))
        assert_is_letter_of(event, letter, case, compression)


def test_a_header_name_that_is_not_text_stops_nothing(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    class Raw(str):
        """A name that kafka-python writes as bytes that are no UTF-8."""

        def encode(self, *_: object) -> bytes:
            return b"\xff\xfe"

    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        case.send([labelled(0), labelled(1)._replace(headers=((Raw("raw"), b"1"),)), labelled(2)])

        case.run_to_end()

        assert [record.json["offset"] for record in case.read("predictions")[0]] == [0, 1, 2]


def test_what_a_learner_of_ones_own_raises_is_a_dead_letter_with_stage_and_error(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    (tmp_path / "moody.py").write_text(
        textwrap.dedent(
            """
            from river import linear_model

            class Moody(linear_model.LogisticRegression):
                def predict_proba_one(self, x):
                    if x["a"] == 3:
                        raise ZeroDivisionError("not today")
                    return super().predict_proba_one(x)

                def learn_one(self, x, y):
                    if x["a"] == 5:
                        raise KeyError("5")
                    super().learn_one(x, y)

            def build():
                return Moody()
            """
        )
    )
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, learner={"build": "moody:build"}) as case:
        case.send(Incoming(0, orjson.dumps({"features": {"a": a}, "label": a % 2})) for a in range(8))

        case.run_to_end()
        case.run_to_end()  # a replay meets the same errors at the same places

        (events,) = case.read("events").values()
        (letters,) = case.read("dead_letters").values()
        predicted = [record.json["offset"] for record in case.read("predictions")[0]]
        assert predicted == [0, 1, 2, 4, 5, 6, 7]
        assert len(letters) == 2
        assert_is_letter_of(events[3], letters[0], case, "predict", stage="predict")
        assert_is_letter_of(events[5], letters[1], case, "learn", stage="learn")
        assert dict(letters[0].headers)["headrace.error"] == b"ZeroDivisionError"
        assert dict(letters[0].headers)["headrace.message"] == b"not today"
        assert dict(letters[1].headers)["headrace.error"] == b"KeyError"
        (status,) = case.statuses().values()
        assert (status["dead_letters"], status["learned"]) == (2, 6)
