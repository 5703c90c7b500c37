from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from monitors.fleet import Bounds
from stream.errors import ConfigError
from stream.monitoring import bounds_of, facts_of
from stream.settings import Settings, load_settings

MINIMAL = """\
name = "fraud"
task = "binary"
[topics]
events = "payments"
[learner]
use = "logistic-regression"
"""


def load(folder: Path, text: str = "") -> Settings:
    path = folder / "app.toml"
    path.write_text(MINIMAL + text, encoding="utf-8")
    return load_settings(path, {})


def test_without_a_word_the_bounds_are_those_of_the_watchdogs(tmp_path: Path) -> None:
    settings = load(tmp_path)

    assert settings.watchdogs.model_dump() == asdict(Bounds())
    assert list(settings.watchdogs.model_dump()) == list(asdict(Bounds()))
    assert bounds_of(settings) == Bounds()


def test_what_the_file_says_is_the_bound_and_0_switches_off(tmp_path: Path) -> None:
    settings = load(tmp_path, "[watchdogs]\nlag_records = 7\nevents_seconds = 0\ncoverage_share = 0.25\n")

    assert bounds_of(settings) == Bounds(lag_records=7, events_seconds=0, coverage_share=0.25)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lag_records = -1", "lag_records is -1; expected a whole number >= 0"),
        ("lag_records = 1.5", "lag_records is 1.5; expected a whole number >= 0"),
        ("worker_seconds = -1", "worker_seconds is -1; expected a number >= 0"),
        ("worker_seconds = inf", "worker_seconds is inf; expected a number >= 0"),
        ("one_class_share = 1.1", "one_class_share is 1.1; expected a number from 0 to 1"),
        ("progress = 5", "progress is not a setting; did you mean progress_seconds?"),
    ],
)
def test_a_bound_that_makes_no_sense_is_a_mistake(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, f"[watchdogs]\n{line}\n")

    assert said.replace('"', "") in str(raised.value).replace('"', "").replace(f"{tmp_path}{os.sep}", "")


def test_bounds_shape_no_state(tmp_path: Path) -> None:
    """Or to be warned earlier would mean to learn everything again."""
    assert load(tmp_path, "[watchdogs]\nlag_records = 7\n").shape() == load(tmp_path).shape()


def test_a_snapshot_is_not_old_before_it_is_due_or_where_there_is_none(tmp_path: Path) -> None:
    rare = load(tmp_path, "[snapshots]\ninterval_seconds = 7200\n")
    none = load(tmp_path, "[snapshots]\nenabled = false\n")
    off = load(tmp_path, "[snapshots]\ninterval_seconds = 7200\n[watchdogs]\nsnapshot_age_seconds = 0\n")

    assert bounds_of(rare).snapshot_age_seconds == 21_600
    assert bounds_of(none).snapshot_age_seconds == 0
    assert bounds_of(off).snapshot_age_seconds == 0


def test_facts_are_what_the_settings_say(tmp_path: Path) -> None:
    text = 'parameters = { l2 = 0.5 }\n[[drift]]\nwatch = "error"\ndetector = "adwin"\n'
    facts = facts_of(load(tmp_path, text))

    assert (facts.name, facts.task, facts.events_topic) == ("fraud", "binary", "payments")
    assert (facts.alerts_topic, facts.status_topic) == ("fraud.alerts", "fraud.status")
    assert facts.dead_letters_topic == "fraud.dead-letters"
    assert (facts.learner, facts.parameters) == ("logistic-regression", {"l2": 0.5})
    assert (facts.metrics, facts.window) == (("accuracy", "roc_auc"), 1_000)
    assert list(facts.watches) == [("error", "adwin")]
    assert (facts.status_interval_seconds, facts.fresh_seconds) == (5.0, 30.0)
    assert facts.settings_file.endswith("app.toml")
    assert facts.brokers == "127.0.0.1:9092"
