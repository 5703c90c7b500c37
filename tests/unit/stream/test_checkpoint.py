from __future__ import annotations

from typing import Any

import pytest

from stream.checkpoint import FORMAT, MAX_METADATA_BYTES, CommitMetadata
from stream.errors import EnvironmentRefused

METADATA = CommitMetadata(
    pipeline="p",
    origin=7,
    topic_id="t-1",
    partitions=12,
    shape={"task": "1f", "learner": "2e"},
    writer="p-host-0",
)
SAME: dict[str, Any] = {
    "pipeline": "p",
    "topic_id": "t-1",
    "partitions": 12,
    "shape": {"task": "1f", "learner": "2e"},
    "where": "clicks[3]",
}


def decode(text: str) -> CommitMetadata:
    return CommitMetadata.decode(text, group="p", where="clicks[3]")


@pytest.mark.parametrize("snapshot", [None, "000107.snap"])
def test_metadata_survives_the_commit(snapshot: str | None) -> None:
    metadata = METADATA.model_copy(update={"snapshot": snapshot})

    assert decode(metadata.encode()) == metadata


def test_metadata_of_the_longest_names_fits_into_a_commit() -> None:
    metadata = METADATA.model_copy(
        update={"pipeline": "p" * 100, "writer": f"{'p' * 100}-{'h' * 100}-100", "snapshot": "s" * 100}
    )

    assert len(metadata.encode().encode()) < MAX_METADATA_BYTES / 2


def test_metadata_that_kafka_would_refuse_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="Kafka takes 4096"):
        METADATA.model_copy(update={"writer": "w" * 5_000}).encode()


@pytest.mark.parametrize(
    "text", ["", "leader", "{}", "[1]", "null", '{"format": "x"}', '{"format": 1}', "\x00"]
)
def test_a_commit_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(
        EnvironmentRefused, match=r"^clicks\[3\]: group 'p' has a committed offset that Headrace did"
    ):
        decode(text)


def test_a_commit_of_another_format_is_refused_whatever_else_it_holds() -> None:
    text = METADATA.encode().replace(f'"format":{FORMAT}', '"format":9,"epoch":{}')

    with pytest.raises(EnvironmentRefused, match="the commit has format 9; this version reads 1"):
        decode(text)


def test_the_same_circumstances_are_accepted() -> None:
    METADATA.require_same(**SAME)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pipeline": "q"}, "the commit is of pipeline 'p', not 'q'"),
        ({"topic_id": "t-2"}, r"the topic was deleted and created again since \(id t-1, now t-2\)"),
        ({"partitions": 13}, "the topic had 12 partitions at the origin and has 13 now"),
        ({"shape": {"task": "1f", "learner": "3d"}}, r"changed since the state began: learner\."),
        ({"shape": {"task": "1f"}}, r"changed since the state began: learner\."),
        ({"shape": {**SAME["shape"], "relay": "4c"}}, r"changed since the state began: relay\."),
        ({"shape": {"task": "0", "learner": "0"}}, r"changed since the state began: learner, task\."),
    ],
)
def test_other_circumstances_are_refused_with_what_to_do(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(
        EnvironmentRefused, match=rf"^clicks\[3\]: .*{sentence}.*headrace (reset begins anew|rebuild learns)"
    ):
        METADATA.require_same(**SAME | change)


def test_another_river_is_named_with_both_versions() -> None:
    metadata = CommitMetadata(
        pipeline="p",
        origin=0,
        topic_id="t",
        partitions=1,
        shape={"task": "1234abcd", "river": "0.26.1"},
        writer="p-host-0",
    )

    with pytest.raises(EnvironmentRefused, match=r"began: river \(0\.26\.1 then, 0\.27\.0 now\)\."):
        metadata.require_same(
            pipeline="p",
            topic_id="t",
            partitions=1,
            shape={"task": "1234abcd", "river": "0.27.0"},
            where="events[0]",
        )
