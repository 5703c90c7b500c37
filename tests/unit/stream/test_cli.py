"""How `headrace` ends: one exit code and a last line that says why, whatever happened."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from typer.testing import CliRunner

from monitors import DETECTORS
from stream import cli
from stream.errors import DeadLetterBudgetSpent, EnvironmentRefused
from stream.logs import configure_logs
from stream.settings import example_settings


def ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> tuple[int, str]:
    """Exit code and standard error of a command that raises."""

    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_our_own_errors_end_with_their_sentence_and_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, capsys, DeadLetterBudgetSpent("clicks[0]@7: too many.")) == (
        5,
        "headrace: clicks[0]@7: too many.\n",
    )


def test_a_bug_ends_with_a_traceback_and_then_a_last_line_with_the_position(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = LookupError("two\nlines")
    error.add_note("at clicks[0]@7")

    code, said = ends(monkeypatch, capsys, error)

    assert code == 1
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.splitlines()[-1].startswith(
        "headrace: stopped by an error that is a bug: LookupError: two lines at clicks[0]@7. "
    )


def test_the_traceback_of_a_bug_goes_through_the_log_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs()
    try:
        code, said = ends(monkeypatch, capsys, LookupError("a bug"))
    finally:
        structlog.reset_defaults()

    logged, last = said.splitlines()
    assert code == 1
    assert logged.startswith("{")
    assert "Traceback" in logged
    assert last.startswith("headrace: stopped by an error that is a bug: LookupError: a bug. ")


def test_a_river_that_can_not_even_be_imported_is_refused_with_both_versions(tmp_path: Path) -> None:
    (tmp_path / "river").mkdir()
    (tmp_path / "river" / "__init__.py").write_text("")
    (tmp_path / "river-0.1.0.dist-info").mkdir()
    (tmp_path / "river-0.1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: river\nVersion: 0.1.0\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])

    ended = subprocess.run(
        [sys.executable, "-P", "-m", "stream.cli", "catalog"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.startswith(
        "headrace: River 0.1.0 is installed, and this version of Headrace is made for "
    )
    assert "ImportError" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_river_without_a_detector_that_is_wanted_is_refused_with_both_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.0")
    with pytest.raises(AttributeError) as lacking:
        _ = replace(DETECTORS["fhddm"], class_name="binary.NoSuchDetector").river

    code, said = ends(monkeypatch, capsys, lacking.value)

    assert code == 3
    assert said.startswith("headrace: River 0.1.0 is installed, and this version of Headrace is made for ")
    assert "NoSuchDetector" in said


def test_no_memory_is_not_called_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ends(monkeypatch, capsys, MemoryError())

    assert code == 6
    assert said.startswith("headrace: out of memory.")


def test_an_export_that_is_stopped_says_that_no_file_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "p.toml"
    path.write_text(example_settings("p"))
    monkeypatch.setattr("stream.tools.outcomes.export", stopped)
    before = signal.getsignal(signal.SIGTERM)
    try:
        result = CliRunner().invoke(cli.app, ["outcomes", str(path), "--output", "all.csv"])
    finally:
        signal.signal(signal.SIGTERM, before)

    assert isinstance(result.exception, EnvironmentRefused)
    assert str(result.exception) == "stopped; no file was written."


@pytest.mark.parametrize(
    ("text", "delay"), [("0", 0.0), ("86400", 86_400.0), ("1e3", 1_000.0), ("paid", "paid")]
)
def test_a_delay_is_a_number_of_seconds_or_the_name_of_a_field(text: str, delay: float | str) -> None:
    assert cli.delay_of(text) == delay


@pytest.mark.parametrize("text", ["-1", "nan", "inf"])
def test_a_delay_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a number of seconds >= 0, or the name of a field"):
        cli.delay_of(text)


def test_a_backtest_with_late_labels_says_what_became_of_them(tmp_path: Path) -> None:
    path, rows = tmp_path / "p.toml", tmp_path / "rows.jsonl"
    path.write_text(
        'name = "p"\ntask = "binary"\n[topics]\nevents = "p"\n[event]\ntime = "at"\n'
        "[labels]\nexpire_after_seconds = 50\n"
        '[learner]\nuse = "logistic-regression"\n'
    )
    rows.write_text(
        "\n".join(
            json.dumps({"features": {"a": i % 3}, "label": i % 2, "at": 1_000 + i, "wait": 10 * i})
            for i in range(20)
        )
    )
    environ = {**os.environ, "PYTHONHASHSEED": "0"}

    def run(*options: str) -> Any:
        words = [sys.executable, "-m", "stream.cli", "backtest", str(path), str(rows), "--json", *options]
        return json.loads(subprocess.run(words, env=environ, capture_output=True, check=True).stdout)

    assert run("--delay", "7", "--verify")["equal"] is True
    late = run("--delay", "wait")["labels"]
    assert (late["questions"], late["joined"], late["late"]) == (20, 6, 14)


#: A command that looks at its settings and then, before it asks a broker, refuses them.
RELAY_OF_NOTHING = """
import sys
from stream import cli

sys.argv[1:] = ["relay", "p.toml"]
try:
    cli.main()
finally:
    import monitors.app.app, stream.kafka.relay, stream.monitoring, stream.notifications
    import stream.tools.dead_letters, stream.tools.merge, stream.tools.outcomes, stream.tools.replay
    import stream.tools.send, stream.tools.status, stream.tools.topics, stream.tools.watch

    print([name for name in ("river", "scipy") if name in sys.modules])
"""


def test_what_does_not_learn_needs_neither_river_nor_the_users_own_module(tmp_path: Path) -> None:
    text = example_settings("p").replace('use = "logistic-regression"', 'build = "is_not_here:build"')
    (tmp_path / "p.toml").write_text(text)

    ended = subprocess.run(
        [sys.executable, "-c", RELAY_OF_NOTHING], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert ended.stdout == "[]\n", ended.stderr
    assert ended.returncode == 2
    assert "is_not_here" not in ended.stderr
    assert "[labels] topic and [relay] events are both missing" in ended.stderr


def test_a_learner_that_is_not_there_is_told_once_however_many_workers_there_are_to_be(
    tmp_path: Path,
) -> None:
    text = example_settings("p").replace('use = "logistic-regression"', 'build = "is_not_here:build"')
    (tmp_path / "p.toml").write_text(text)

    ended = subprocess.run(
        [sys.executable, "-m", "stream.cli", "run", "p.toml", "--workers", "3"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert ended.returncode == 2
    assert ended.stderr.startswith("headrace: p.toml:")
    assert ended.stderr.count("\n") == 1
    assert "is_not_here" in ended.stderr
