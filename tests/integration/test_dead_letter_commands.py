"""`headrace dead-letters` as its users run it, with a real broker and real workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from stream.broker import Broker
from tests.integration.test_tools import Shell
from tests.support import Incoming, KafkaCase, Written, labelled, whole_seconds_ago

pytestmark = pytest.mark.integration

#: A full second two hours ago, in milliseconds.
EARLIER = whole_seconds_ago(7_200) * 1_000

#: A learner that can't predict on 3 or learn 4 before it has learned 5: what is wrong mends itself, by the log alone.
LEARNER = textwrap.dedent(
    """
    from river import linear_model

    class Unready(linear_model.LogisticRegression):
        ready = False

        def predict_proba_one(self, x):
            if x["a"] == 3 and not self.ready:
                raise LookupError("not ready for 3")
            return super().predict_proba_one(x)

        def learn_one(self, x, y):
            self.ready = self.ready or x["a"] == 5
            if x["a"] == 4 and not self.ready:
                raise LookupError("not ready for 4")
            super().learn_one(x, y)

    def build():
        return Unready()
    """
)


@pytest.fixture
def shell(broker: Broker, tmp_path: Path) -> Shell:
    return Shell(tmp_path, broker.bootstrap_servers)


def event(a: int, partition: int = 0, **more: object) -> Incoming:
    return Incoming(partition, orjson.dumps({"features": {"a": a}, "label": a % 2} | more), key=b"k")


def letters(shell: Shell, case: KafkaCase, *options: str) -> list[dict[str, object]]:
    """What `list --json` prints; the summary comes last."""
    lines = shell("dead-letters", "list", str(case.settings_file), *options, "--json").splitlines()
    return [json.loads(line) for line in lines]


def answered(shell: Shell, answer: bytes, *words: str) -> str:
    """What a command writes to its terminal, whose user gives this answer."""
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer)
        ended = subprocess.run(
            [sys.executable, "-m", "stream.cli", *words],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=True,
            cwd=shell.folder,
            env=shell.environ,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return ended.stderr + ended.stdout


def replayed(case: KafkaCase, partition: int = 0) -> list[Written]:
    """Events that a replay has written."""
    return [r for r in case.read("events")[partition] if any(n == "headrace.attempt" for n, _ in r.headers)]


def test_an_event_that_failed_is_seen_replayed_and_predicted_once_what_was_wrong_is_mended(
    shell: Shell, broker: Broker, topic_name: str, tmp_path: Path
) -> None:
    (tmp_path / "unready.py").write_text(LEARNER)
    bad = event(3)._replace(headers=(("mine", b"\xff"), ("mine", b"")), timestamp=EARLIER)
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, learner={"build": "unready:build"}
    ) as case:
        settings = str(case.settings_file)
        assert (
            shell("dead-letters", "list", settings)
            == f"No dead letter is there on {case.name}.dead-letters.\n"
        )

        case.send([event(1), bad, event(2), event(5), Incoming(0, b"garbage \x1b[2J")])
        case.run_to_end()

        listed = shell("dead-letters", "list", settings)
        assert listed.splitlines() == [
            f"{case.name}.events[0]@4  decode  RecordError: the value is not valid JSON in UTF-8: "
            "unexpected character, expected a JSON value: line 1 column 1 (char 0)  garbage \\x1b[2J",
            f'{case.name}.events[0]@1  predict  LookupError: not ready for 3  {{"features":{{"a":3}},"label":1}}',
            f"2 dead letters on {case.name}.dead-letters.",
            "  1  decode   RecordError",
            "  1  predict  LookupError",
        ]
        shown = shell("dead-letters", "show", settings, f"{case.name}.events[0]@1").splitlines()
        assert shown[0] == f"{case.name}.events[0]@1"
        assert shown[-8:] == [
            "  k",
            "value (30 bytes, JSON)",
            "  {",
            '    "features": {',
            '      "a": 3',
            "    },",
            '    "label": 1',
            "  }",
        ]
        assert "  mine: ff" in shown

        dry = shell("dead-letters", "replay", settings, "--stage", "predict", "--dry-run")
        assert (
            dry.splitlines()[-1]
            == f"Would send 1 dead letter to {case.name}.events ({case.name}.events[0]: 1)."
        )
        assert case.read("events")[0][5:] == []
        sent = shell.json("dead-letters", "replay", settings, "--stage", "predict", "--yes")
        assert (sent["sent"], sent["partitions"], sent["left"]) == (1, {"0": 1}, {})
        again = shell.json("dead-letters", "replay", settings, "--stage", "predict", "--yes")
        assert (again["sent"], again["begun_anew"]) == (0, [])

        case.run_to_end()
        (new,) = replayed(case)
        assert (new.offset, new.key, new.value) == (5, bad.key, bad.value)
        assert new.headers == (
            *bad.headers,
            ("headrace.attempt", b"1"),
            ("headrace.replayed-from", f"{case.name}.events[0]@1".encode()),
        )
        assert new.timestamp > EARLIER
        assert [r.json["offset"] for r in case.read("predictions")[0]] == [0, 2, 3, 5]
        assert case.assert_exactly_once() == 4

        # What the filter left alone is still to be sent, and nothing else.
        rest = shell("dead-letters", "replay", settings, "--yes")
        assert rest == f"Sent 1 dead letter to {case.name}.events ({case.name}.events[0]: 1).\n"
        assert [r.value for r in replayed(case)] == [bad.value, b"garbage \x1b[2J"]


def test_an_answer_that_failed_is_replayed_and_learned_on_the_features_of_its_question(
    shell: Shell, broker: Broker, topic_name: str, tmp_path: Path
) -> None:
    (tmp_path / "unready.py").write_text(LEARNER)
    with KafkaCase(
        broker.bootstrap_servers, tmp_path, topic_name, learner={"build": "unready:build"}
    ) as case:
        answer = Incoming(0, orjson.dumps({"id": "q", "label": 1}), key=b"k")
        case.send([event(4, id="q", label=None), answer, event(5)])
        case.run_to_end()
        assert case.statuses()[0]["dead_letters_by_stage"]["learn"] == 1

        sent = shell.json("dead-letters", "replay", str(case.settings_file), "--stage", "learn", "--yes")
        case.run_to_end()

        assert sent["sent"] == 1
        status = case.statuses()[0]
        assert (status["learned"], status["scored"], status["dead_letters"]) == (2, 2, 1)
        assert (status["joined"], status["duplicate_labels"]) == (1, 1)


@pytest.mark.full
def test_an_event_that_fails_again_carries_its_attempts_until_they_are_used_up(
    shell: Shell, broker: Broker, topic_name: str, tmp_path: Path
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        settings = str(case.settings_file)
        case.send(
            [labelled(0), Incoming(1, b"garbage", headers=(("mine", b"1"),)), Incoming(1, None, key=b"k")]
        )

        for attempt in (1, 2):
            case.run_to_end()
            sent = shell.json("dead-letters", "replay", settings, "--yes", "--max-attempts", "2")
            assert sent["sent"] == 1
            assert sent["left"] == ({"no_value": 1} if attempt == 1 else {})
        case.run_to_end()
        said = shell("dead-letters", "replay", settings, "--yes", "--max-attempts", "2")
        assert said.splitlines() == [
            f"Nothing to replay on {case.name}.dead-letters.",
            "  1 left for good: replayed as often as --max-attempts allows.",
        ]

        topic = f"{case.name}.events"
        origin = f"{topic}[1]@0"
        assert [dict(r.headers)["headrace.attempt"] for r in replayed(case, 1)] == [b"1", b"2"]
        assert {dict(r.headers)["headrace.replayed-from"] for r in replayed(case, 1)} == {origin.encode()}
        *found, summary = letters(shell, case, "--partition", "1", "--oldest")
        assert [(body["position"], body["attempt"], body["replayed_from"]) for body in found] == [
            (origin, 0, None),
            (f"{topic}[1]@1", 0, None),
            (f"{topic}[1]@2", 1, origin),
            (f"{topic}[1]@3", 2, origin),
        ]
        assert summary["dead_letters"] == 4
        names = [name for name, _ in case.read("dead_letters")[1][-1].headers]
        assert len(names) == len(set(names)) == 1 + 2 + 8
        shown = shell.json("dead-letters", "show", settings, "1@3")
        assert [(a["position"], a["attempt"]) for a in shown["attempts"]] == [
            (origin, 0),
            (f"{topic}[1]@2", 1),
            (f"{topic}[1]@3", 2),
        ]
        assert shown["value"] == {"text": "garbage"}
        assert case.assert_exactly_once() == 1


@pytest.mark.full
def test_filters_limits_and_what_is_left_for_good(
    shell: Shell, broker: Broker, topic_name: str, tmp_path: Path
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        settings = str(case.settings_file)
        old, new = EARLIER, EARLIER + 60_000
        moment = datetime.fromtimestamp(new / 1_000, UTC).isoformat()
        bad = [
            Incoming(p, f"{p} {t} {n}".encode(), timestamp=t)
            for p in (0, 1)
            for t in (old, new)
            for n in (1, 2)
        ]
        case.send(bad)
        case.run_to_end()

        assert len(letters(shell, case)) == 8 + 1
        assert [body["value"] for body in letters(shell, case, "--limit", "2")[:-1]] == [
            f"1 {new} 2",
            f"1 {new} 1",
        ]
        since = letters(shell, case, "--since", moment)
        assert {body["time"] for body in since[:-1]} == {f"{moment[:19]}.000+00:00"}
        assert len(since) == 4 + 1
        assert letters(shell, case, "--stage", "learn")[0]["dead_letters"] == 0

        options = ("dead-letters", "replay", settings, "--yes", "--partition", "1", "--limit", "1")
        first = shell.json(*options, "--since", moment)
        second = shell.json(*options)
        third = shell.json(*options)

        assert (first["sent"], first["left"], first["limit_reached"]) == (1, {"since": 2}, True)
        assert (second["sent"], second["left"], second["partitions"]) == (1, {}, {"1": 1})
        assert (third["sent"], third["limit_reached"]) == (0, False)
        assert [r.value for r in replayed(case, 1)] == [f"1 {new} 1".encode(), f"1 {new} 2".encode()]
        assert replayed(case, 0) == []
        assert shell.json("dead-letters", "replay", settings, "--yes")["partitions"] == {"0": 4}


def test_what_can_not_be_done_is_a_sentence(
    shell: Shell, broker: Broker, topic_name: str, tmp_path: Path
) -> None:
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, partitions=2) as case:
        settings = str(case.settings_file)
        case.send([labelled(0), Incoming(0, b"garbage"), Incoming(0, b"garbage")])
        case.run_to_end()
        topic = f"{case.name}.events"

        said = shell("dead-letters", "show", settings, "0@7", code=2)
        assert said == (
            f"headrace: there is no dead letter of {topic}[0]@7: {case.name}.dead-letters[0] holds 2 of them, "
            f"from {topic}[0]@1 to {topic}[0]@2. See: headrace dead-letters list {settings} --partition 0\n"
        )
        assert f"{case.name}.dead-letters[1] holds none" in shell(
            "dead-letters", "show", settings, "1@7", code=2
        )
        assert "has no partition 2; expected 0 to 1" in shell("dead-letters", "show", settings, "2@7", code=3)
        assert "expected 0 to 1" in shell("dead-letters", "list", settings, "--partition", "5", code=3)
        assert "is no position on" in shell("dead-letters", "show", settings, "seven", code=2)
        assert "with its zone" in shell("dead-letters", "list", settings, "--since", "2026-01-01", code=2)
        assert "Add --yes" in shell("dead-letters", "replay", settings, code=2)
        said = answered(shell, b"n\n", "dead-letters", "replay", settings)
        assert f"Would send 2 dead letters to {topic} ({topic}[0]: 2).\nGo on? [y/N]" in said
        assert "Nothing was sent." in said
        assert case.read("events")[0][3:] == []
        assert "Sent 2 dead letters" in answered(shell, b"y\n", "dead-letters", "replay", settings)
        assert len(replayed(case)) == 2


def test_no_broker_and_no_topic_are_sentences(shell: Shell, topic_name: str, tmp_path: Path) -> None:
    settings = tmp_path / "p.toml"
    settings.write_text(
        f'name = "{topic_name}"\ntask = "binary"\n[topics]\nevents = "{topic_name}"\n'
        '[learner]\nuse = "logistic-regression"\n'
    )

    missing = shell("dead-letters", "list", "p.toml", code=3)
    shell.environ["HEADRACE_KAFKA__BOOTSTRAP_SERVERS"] = "127.0.0.1:1"
    away = shell("dead-letters", "replay", "p.toml", "--yes", code=3)

    assert "Make it: headrace topics create p.toml" in missing
    assert away.startswith("headrace: no broker answered at 127.0.0.1:1 within 10 s while connecting.")
