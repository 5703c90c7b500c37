from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "examples" / "own_learner"


def run(*command: str, cwd: Path) -> str:
    """A Python command in a process of its own, where no other module called `models` is met; its output."""
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_example_learner_keeps_what_a_learner_promises(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from learners import check_learner\n"
        "check_learner('models:fraud', 'binary', strings=True, folder=Path(sys.argv[1])); print('sound')"
    )

    assert run("-c", code, str(FOLDER), cwd=tmp_path) == "sound\n"


def test_the_example_runs_on_its_own_data_and_equals_rivers_evaluation(tmp_path: Path) -> None:
    files = [str(FOLDER / "fraud.toml"), str(FOLDER / "payments.csv")]

    found = json.loads(run("-m", "stream.cli", "backtest", *files, "--json", "--verify", cwd=tmp_path))

    assert (found["rows"], found["learned"], found["dead_letter_count"]) == (600, 600, 0)
    assert found["equal"] is True
    assert found["metrics"]["accuracy"]["value"] > found["baselines"]["majority"]["value"]


def test_predictions_are_written_as_on_their_topic_and_limit_is_heeded(tmp_path: Path) -> None:
    files = [str(FOLDER / "fraud.toml"), str(FOLDER / "payments.csv")]

    shown = run(
        "-m", "stream.cli", "backtest", *files, "--limit", "5", "--predictions", "out.jsonl", cwd=tmp_path
    )

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(line["id"], line["offset"], line["learned"]) for line in lines] == [
        (f"t000{i}", i, i) for i in range(5)
    ]
    assert "5 rows, 5 labels learned" in shown
