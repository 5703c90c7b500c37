from __future__ import annotations

import os
from pathlib import Path

import pytest

from stream.checkpoint import CommitMetadata
from stream.errors import EnvironmentRefused
from stream.rows import RowError
from stream.tools.cluster import TopicFacts
from stream.tools.group import Place, require_same_topic
from stream.tools.rebuild import _digest, _same_folds

EVENTS = TopicFacts(name="clicks", partitions=2, replication_factor=1, topic_id="id", configs={})


def place(next_offset: int = 50, **fields: object) -> Place:
    values = {
        "pipeline": "p",
        "origin": 5,
        "topic_id": "id",
        "partitions": 2,
        "shape": {"river": "0.26.1"},
        "writer": "p-host-0",
    }
    return Place(next_offset, CommitMetadata.model_validate(values | fields))


def test_workers_may_go_on_and_hand_over_while_a_state_is_rebuilt() -> None:
    now = {
        0: place(90, writer="p-host-1", snapshot="0/00000000000000000080-0123456789abcdef.snapshot"),
        1: place(),
    }

    assert _same_folds({0: place(), 1: place()}, now) is now


@pytest.mark.parametrize(
    ("now", "partition"),
    [
        ({0: place()}, 1),
        ({0: place(), 1: place(), 2: place()}, 2),
        ({0: place(origin=6), 1: place()}, 0),
        ({0: place(), 1: place(topic_id="another")}, 1),
        ({0: place(), 1: place(fold_id="ab")}, 1),
    ],
)
def test_a_partition_that_was_begun_anew_meanwhile_is_seen(now: dict[int, Place], partition: int) -> None:
    with pytest.raises(EnvironmentRefused, match=f"partition {partition} was begun, or begun anew"):
        _same_folds({0: place(), 1: place()}, now)


def test_commits_of_an_earlier_topic_of_this_name_are_refused() -> None:
    require_same_topic({0: place()}, EVENTS)

    with pytest.raises(EnvironmentRefused, match=r"clicks\[1\]: the topic was deleted and created again"):
        require_same_topic({0: place(), 1: place(topic_id="earlier")}, EVENTS)


def test_a_file_of_rows_is_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"{}\n")
    os.mkfifo(tmp_path / "pipe")

    assert len(_digest(tmp_path / "rows.jsonl")) == 64
    for name, words in (
        ("none", "there is no such file"),
        ("pipe", "is no plain file"),
        (".", "is no plain file"),
    ):
        with pytest.raises(RowError, match=words):
            _digest(tmp_path / name)
