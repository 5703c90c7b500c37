"""`[relay]`, and a topic of their own in `[labels]`."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.errors import ConfigError
from stream.settings import Settings, load_settings

TOP = 'name = "fraud"\ntask = "binary"\n[topics]\nevents = "payments"\noutcomes = "joined"\n'
LEARNER = '[learner]\nuse = "logistic-regression"\n'
OWN = '[labels]\ntopic = "chargebacks"\n'


def load(folder: Path, text: str) -> Settings:
    path = folder / "app.toml"
    path.write_text(TOP + LEARNER + text)
    return load_settings(path, {})


def mistake(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    (found,) = caught.value.mistakes
    return str(found).partition(": ")[2]


def test_without_them_nothing_is_relayed(tmp_path: Path) -> None:
    assert load(tmp_path, "").relayed_topics == {}


def test_a_labels_topic_is_relayed_and_topics_of_events_come_first(tmp_path: Path) -> None:
    settings = load(tmp_path, OWN + '[relay]\nevents = ["cards", "transfers"]\n')

    assert settings.relayed_topics == {"cards": "events", "transfers": "events", "chargebacks": "labels"}
    assert list(settings.relayed_topics) == ["cards", "transfers", "chargebacks"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[labels]\ntopic = "payments"\n',
            '[labels] topic is "payments", as [topics] events is; expected a topic of its own; leave it out, if that '
            "is where the labels are.",
        ),
        (
            '[labels]\ntopic = "fraud.predictions"\n',
            '[labels] topic is "fraud.predictions", as [topics] predictions is; expected a topic of its own.',
        ),
        (
            '[relay]\nevents = ["payments"]\n',
            '[relay] events names "payments", as [topics] events does; expected topics that events are brought from.',
        ),
        (
            '[relay]\nevents = ["joined"]\n',
            '[relay] events names "joined", as [topics] outcomes does; expected topics that events are brought from.',
        ),
        (
            '[relay]\nevents = ["cards", "cards"]\n',
            '[relay] events names "cards" twice; expected it once.',
        ),
        (
            OWN + '[relay]\nevents = ["chargebacks"]\n',
            '[relay] events names "chargebacks", as [labels] topic does; its records would come twice.',
        ),
        (
            '[labels]\nid = "tx"\n',
            "[labels] id is for labels in a topic of their own; name it in [labels] topic, or leave this out.",
        ),
        (
            OWN + 'id = "label"\n',
            '[labels] label is "label", as id is; expected another field.',
        ),
        (
            '[relay]\nevents = ["a b"]\n',
            '[relay] events is ["a b"]; expected a list of names of Kafka topics.',
        ),
        (
            '[relay]\ntopics = ["a"]\n',
            "[relay] topics is not a setting; expected one of events.",
        ),
    ],
)
def test_what_can_not_be_relayed_is_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    assert mistake(tmp_path, text).startswith(said)


def test_a_value_that_means_true_is_for_the_binary_task(tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    text = TOP.replace("binary", "regression") + LEARNER.replace("logistic", "linear") + OWN
    path.write_text(text + 'positive = "yes"\n')

    with pytest.raises(
        ConfigError, match="positive is for the binary task, not for regression; leave it out"
    ):
        load_settings(path, {})


def test_where_things_are_in_a_label_shapes_the_state_and_topics_do_not(tmp_path: Path) -> None:
    shape = load(tmp_path, OWN).shape()

    assert load(tmp_path, OWN.replace("chargebacks", "refunds")).shape() == shape
    assert load(tmp_path, OWN + '[relay]\nevents = ["cards"]\n').shape() == shape
    changed = load(tmp_path, OWN + 'label = "verdict"\n').shape()
    assert {name for name in shape if shape[name] != changed[name]} == {"labels"}
