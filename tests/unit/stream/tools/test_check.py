from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stream.checkpoint import CommitMetadata, state_shape
from stream.errors import EnvironmentRefused
from stream.settings import Settings, load_settings
from stream.tools import check as module
from stream.tools.check import (
    broker_items,
    check,
    learner_items,
    offsets_item,
    settings_item,
    snapshots_item,
)
from stream.tools.cluster import Bounds, Commit, TopicFacts

SETTINGS = """\
name = "p"
task = "binary"
[topics]
events = "clicks"
[learner]
"""
EVENTS = TopicFacts(name="clicks", partitions=2, replication_factor=1, topic_id="id", configs={})


def settings(tmp_path: Path, learner: str = 'use = "logistic-regression"') -> Settings:
    path = tmp_path / "p.toml"
    path.write_text(SETTINGS + learner)
    return load_settings(path, {})


def metadata(settings: Settings, **other: object) -> str:
    values = {
        "pipeline": "p",
        "origin": 5,
        "topic_id": "id",
        "partitions": 2,
        "shape": state_shape(settings),
        "writer": "p-host-0",
        **other,
    }
    return CommitMetadata.model_validate(values).encode()


def offsets(settings: Settings, text: str, next_offset: int = 50, first: int = 0) -> tuple[str, str]:
    item = offsets_item(
        settings,
        EVENTS,
        {1: Commit(next_offset, text)},
        [Bounds(first, 100), Bounds(first, 100)],
        outputs=True,
    )
    return item.state, item.text


def test_every_mistake_of_the_settings_is_an_item_and_nothing_else_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('name = "P"\ntask = "binry"\n[topics]\nevents = "e"\n[learner]\nuse = "tree"\n')

    items = list(check(path))

    assert [item.item for item in items] == ["settings", "settings"]
    assert {item.state for item in items} == {"failed"}
    assert f"{path}:2: task" in items[1].text


def test_the_settings_are_told_in_a_line(tmp_path: Path) -> None:
    item = settings_item(settings(tmp_path))

    assert item.state == "ok"
    assert "label label; features: features; metrics: accuracy, roc_auc; drift: not watched." in item.text


def test_a_learner_is_tried_and_timed(tmp_path: Path) -> None:
    (item,) = learner_items(settings(tmp_path))

    assert item.state == "ok"
    assert "LogisticRegression" in item.text
    assert "microseconds" in item.text


def test_a_learner_of_ones_own_that_wants_its_features_is_a_warning_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wants_amount.py").write_text(
        "from river import compose, linear_model\n"
        "def amount(x):\n"
        "    return {'amount': x['amount']}\n"
        "def build():\n"
        "    return compose.FuncTransformer(amount) | linear_model.LogisticRegression()\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))

    (item,) = learner_items(settings(tmp_path, 'build = "wants_amount:build"'))

    assert item.state == "warning"
    assert "KeyError: 'amount'" in item.text


def test_a_learner_of_which_no_snapshot_can_be_opened_is_told_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its class is of a module that the settings do not name; the worker would find out at the first snapshot."""
    (tmp_path / "parts_of_it.py").write_text(
        "from river import linear_model\nclass Mine(linear_model.LogisticRegression): ...\n"
    )
    (tmp_path / "it_itself.py").write_text(
        "import parts_of_it\ndef model():\n    return parts_of_it.Mine()\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    build = 'build = "it_itself:model"'
    trusted = '\n[snapshots]\ntrusted_modules = ["parts_of_it"]'

    first, *rest = learner_items(settings(tmp_path, build))
    assert [item.state for item in learner_items(settings(tmp_path, build + trusted))] == ["ok"]

    assert first.state == "ok"
    assert [item.state for item in rest] == ["warning"]
    assert "asks for parts_of_it.Mine, which is not among what a state may hold" in rest[0].text
    assert 'add "parts_of_it" to [snapshots] trusted_modules' in rest[0].text


def test_offsets_of_ours_are_fine_and_the_distance_is_told(tmp_path: Path) -> None:
    found = settings(tmp_path)

    state, text = offsets(found, metadata(found))

    assert state == "ok"
    assert "for 1 of 2 partitions, at most 50 records behind; 1 not begun" in text


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"topic_id": "another"}, "deleted and created again"),
        ({"partitions": 3}, "3 partitions at the origin"),
        ({"shape": {"task": "x"}}, "would no longer follow from the log. Put it back as it was."),
    ],
)
def test_offsets_that_a_worker_would_refuse_fail(
    tmp_path: Path, other: dict[str, object], words: str
) -> None:
    found = settings(tmp_path)

    state, text = offsets(found, metadata(found, **other))

    assert state == "failed"
    assert words in text


def test_offsets_of_another_consumer_fail(tmp_path: Path) -> None:
    state, text = offsets(settings(tmp_path), "")

    assert state == "failed"
    assert "did not write" in text


def test_a_log_that_begins_after_the_origin_or_ends_before_the_commit_fails(tmp_path: Path) -> None:
    found = settings(tmp_path)

    assert "begins at 6" in offsets(found, metadata(found), first=6)[1]
    assert "ends at 100" in offsets(found, metadata(found), next_offset=101)[1]


NAMED = "1/00000000000000000040-0123456789abcdef.snapshot"


def test_a_log_has_to_reach_back_to_the_snapshot_that_the_commit_names(tmp_path: Path) -> None:
    found = settings(tmp_path)
    named = metadata(found, snapshot=NAMED)

    assert offsets(found, named, first=40)[0] == "ok"
    assert (
        "begins at 41, and the state can only be had from 40 on (the snapshot"
        in offsets(found, named, first=41)[1]
    )


def test_snapshots_that_are_not_enabled_help_nobody(tmp_path: Path) -> None:
    enabled = settings(tmp_path)
    found = settings(tmp_path, 'use = "logistic-regression"\n[snapshots]\nenabled = false')

    assert offsets(found, metadata(found, snapshot=NAMED), first=5)[0] == "ok"
    assert (
        "only be had from 5 on (where it began)"
        in offsets(found, metadata(found, snapshot=NAMED), first=6)[1]
    )
    with_rows = metadata(found, snapshot=NAMED, base="ab" * 32)
    assert offsets(enabled, with_rows)[0] == "ok"
    assert "began with a file of rows, and can be had from a snapshot only" in offsets(found, with_rows)[1]


def test_where_the_snapshots_are_and_what_seals_them_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def item(text: str = "") -> tuple[str, str]:
        found = snapshots_item(settings(tmp_path, f'use = "logistic-regression"\n[snapshots]\n{text}'))
        return found.state, found.text

    state, text = item()
    assert state == "ok"
    assert text == (
        f"{tmp_path}/.headrace/snapshots/p answers, with snapshots of 0 partitions; sealed with a key made beside them."
    )
    folder = tmp_path / ".headrace" / "snapshots" / "p" / "0"
    folder.mkdir(parents=True, mode=0o700)
    (folder / NAMED.partition("/")[2]).write_bytes(b"")
    assert (
        "with snapshots of 1 partition; sealed with a key of the settings." in item(f'key = "{"k" * 32}"')[1]
    )
    assert item("enabled = false")[0] == "warning"

    (tmp_path / ".headrace" / "snapshots" / "snapshots.key").chmod(0o644)
    state, text = item()
    assert state == "failed"
    assert "others may read it (mode 644)" in text
    folder.parent.chmod(0o777)
    assert "that nobody else can write to (chmod 700)" in item(f'key = "{"k" * 32}"')[1]


def test_outputs_without_offsets_fail_and_neither_is_a_beginning(tmp_path: Path) -> None:
    found = settings(tmp_path)
    bounds = [Bounds(0, 0), Bounds(0, 0)]

    assert offsets_item(found, EVENTS, {}, bounds, outputs=True).state == "failed"
    begin = offsets_item(found, EVENTS, {}, bounds, outputs=False)
    assert begin.state == "ok"
    assert "begins at earliest" in begin.text


def test_a_client_that_is_not_installed_is_skipped_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiokafka.client", None)
    monkeypatch.setattr(module, "_confluent_kafka", lambda settings: 1)
    monkeypatch.setattr(module, "_kafka_python", lambda settings: 3)

    items = broker_items(settings(tmp_path))

    assert [item.state for item in items] == ["ok", "ok", "ok"]
    assert "answers, 3 brokers" in items[1].text
    assert items[2].text == "skipped: pip install 'headrace[monitor]'"


def test_a_password_over_plain_text_is_a_warning_and_a_broker_that_is_away_ends_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        SETTINGS + 'use = "logistic-regression"\n[kafka]\n'
        'security_protocol = "SASL_PLAINTEXT"\nsasl_mechanism = "PLAIN"\nsasl_username = "u"\n'
        'sasl_password = "hunter2"\n'
    )

    def away(settings: Settings) -> int:
        raise EnvironmentRefused("no broker answered.")

    for client in ("_confluent_kafka", "_kafka_python", "_aiokafka"):
        monkeypatch.setattr(module, client, away)

    items = list(check(path))

    assert [item.item for item in items if item.state == "warning"] == ["connection"]
    assert [item.item for item in items if item.state == "failed"] == [
        "broker with confluent-kafka",
        "broker with kafka-python",
        "broker with aiokafka",
    ]
    assert items[-1].item == "broker with aiokafka"
    assert all("hunter2" not in str(item) for item in items)
