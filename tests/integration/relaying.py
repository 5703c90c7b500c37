"""Pipelines with a relay: source topics, and what the relay made of them, read back by another client."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.conftest import create_topic
from tests.integration.commands import Command
from tests.support import Incoming, KafkaCase, Written, labelled

POSITION = re.compile(rb"(.+)\[(\d+)\]@(\d+)")


class RelayCase(KafkaCase):
    """A pipeline with a labels topic, with topics of events, or both; makes these topics, too.

    Args:
        broker: Where all is.
        folder: Where the settings file goes.
        name: The pipeline's name; source topics begin with it.
        partitions: Of `<events>` and all outputs.
        labels: Partitions of the labels topic; 0: none.
        sources: Partitions of each topic of events, in the order of `[relay] events`.
        sections: Of the settings.
    """

    def __init__(
        self,
        broker: Any,
        folder: Path,
        name: str,
        *,
        partitions: int = 1,
        labels: int = 0,
        sources: Iterable[int] = (),
        **sections: Any,
    ) -> None:
        counts = list(sources)
        self.sources = [f"{name}.source{number}" for number in range(len(counts))]
        self.labels = f"{name}.labels"
        if labels:
            create_topic(broker, self.labels, labels)
            fields = {"topic": self.labels, "id": "tx", "label": "verdict", "positive": "fraud"}
            sections["labels"] = fields | sections.get("labels", {})
        if counts:
            for topic, count in zip(self.sources, counts, strict=True):
                create_topic(broker, topic, count)
            sections["relay"] = {"events": self.sources}
        super().__init__(broker.bootstrap_servers, folder, name, partitions=partitions, **sections)

    def send_to(self, topic: str, records: Iterable[Incoming]) -> None:
        """Write records into a source topic."""
        client = self.producer()
        sent = [
            client.send(
                topic,
                value=record.value,
                key=record.key,
                headers=list(record.headers),
                partition=record.partition,
                timestamp_ms=record.timestamp,
            )
            for record in records
        ]
        client.flush()
        for future in sent:
            future.get(timeout=60)
        client.close()

    def hand_over(self, client: Any, record: Incoming) -> Any:
        """Labels to their topic, events to the first of theirs, if there is one."""
        topic = self.sources[0] if self.sources else self.topic("events")
        if b'"verdict"' in (record.value or b""):
            topic = self.labels
        return client.send(
            topic,
            value=record.value,
            key=record.key,
            headers=list(record.headers),
            partition=record.partition,
            timestamp_ms=record.timestamp,
        )

    def relay(self, *options: str, **arguments: Any) -> Command:
        """Another process of `headrace relay`."""
        return Command(self, "relay", str(self.settings_file), *options, **arguments)

    def relay_to_end(self, *options: str) -> None:
        with self.relay("--stop-at-end", *options) as command:
            command.ends(0)

    def read_topic(self, topic: str) -> dict[int, list[Written]]:
        """All committed records of any topic."""
        self._other_topic = topic
        return self.read("other")

    def topic(self, kind: str) -> str:
        return self._other_topic if kind == "other" else super().topic(kind)

    def relayed(self) -> Mapping[tuple[str, int], list[tuple[int, Written]]]:
        """Records of `<events>` that were relayed, by where from: each with the partition it is in, in order."""
        found: dict[tuple[str, int], list[tuple[int, Written]]] = {}
        for partition, records in self.read("events").items():
            for record in records:
                if at := _position(record):
                    match = POSITION.fullmatch(at)
                    assert match is not None, at
                    found.setdefault((match[1].decode(), int(match[2])), []).append((partition, record))
        return found

    def assert_relayed_once(self) -> int:
        """Each source record is in `<events>` once, in order, byte for byte; returns how many there are."""
        found = self.relayed()
        total = 0
        events = len(self.ends("events"))
        for topic, kind in self.settings.relayed_topics.items():
            for partition, records in self.read_topic(topic).items():
                relayed = found.get((topic, partition), [])
                offsets = [int(_position(copy).rpartition(b"@")[2]) for _, copy in relayed]
                assert offsets == [record.offset for record in records], f"{topic}[{partition}]"
                assert {to for to, _ in relayed} <= {0 if events == 1 else partition}
                for record, (_, copy) in zip(records, relayed, strict=True):
                    assert copy.headers == (
                        *record.headers,
                        ("headrace.relay.pipeline", self.name.encode()),
                        ("headrace.relay.kind", kind.encode()),
                        ("headrace.relay.position", f"{topic}[{partition}]@{record.offset}".encode()),
                    )
                    assert copy.content[:3] == record.content[:3]
                total += len(records)
        return total


def _position(record: Written) -> bytes:
    return dict(record.headers).get("headrace.relay.position") or b""


def question(number: int, partition: int = 0) -> Incoming:
    """The features of `labelled`, without the label."""
    event = labelled(number, partition)
    body = orjson.loads(event.value or b"")
    del body["label"]
    return event._replace(value=orjson.dumps(body))


def verdict(number: int, partition: int = 0) -> Incoming:
    """The label of `labelled`, as it comes in the labels topic."""
    event = labelled(number, partition)
    body = orjson.loads(event.value or b"")
    value = {"tx": body["id"], "verdict": "fraud" if body["label"] else "fine", "features": {"a": 1.0}}
    return event._replace(value=orjson.dumps(value), headers=(("trace", b"t%d" % number),))
