"""`headrace snapshots list|show|verify|prune`, on what real workers have left."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.broker import Broker
from stream.snapshots.file import Fold, Header, Tried, header_of, pickled, sealed
from stream.snapshots.key import local_key
from tests.integration.commands import OTHER, headrace, headrace_json
from tests.support import KafkaCase, labelled
from tests.unit.stream.snapshots.test_file import state_after

pytestmark = pytest.mark.integration

#: A learner of the user's own, whose state names a function of the user's module.
MODELS = """\
from river import compose, linear_model


def doubled(x):
    return {name: 2 * value for name, value in x.items()}


def build():
    return compose.FuncTransformer(doubled) | linear_model.LogisticRegression()
"""


def folder_of(case: KafkaCase) -> Path:
    return case.settings_file.parent / ".headrace" / "snapshots" / case.name


def test_what_is_kept_is_listed_shown_verified_and_pruned(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name, learner={"build": "models:build"}) as case:
        assert headrace(case, "snapshots", "list") == f"No snapshots in {folder_of(case)}.\n"
        assert headrace_json(case, "snapshots", "verify", code=1) == []
        for run in range(3):
            case.send(labelled(number) for number in range(20 * run, 20 * run + 20))
            case.run_to_end()

        listed = headrace_json(case, "snapshots", "list")

        newest, committed, oldest = (item["name"] for item in listed)
        learned = [item["header"]["learned"] for item in listed]
        assert learned == [60, 40, 20]
        # The commit before the newest one was taken names the one before it.
        assert [item["committed"] for item in listed] == [False, True, False]
        assert {item["refused"] for item in listed} == {""}
        table = headrace(case, "snapshots", "list")
        assert [line.split()[0] for line in table.splitlines() if ".snapshot" in line] == [
            newest,
            committed,
            oldest,
        ]
        assert f"In {folder_of(case)}." in table

        shown = headrace(case, "snapshots", "show", committed)
        assert "state          of the records from 0 up to" in shown
        assert "| LogisticRegression, 40 labels learned" in shown
        assert "committed      yes\nusable         as far as its header tells\n" in shown
        assert headrace_json(case, "snapshots", "show", oldest)["header"]["learned"] == 20
        assert f"there are {newest}, {committed}, {oldest}." in headrace(
            case, "snapshots", "show", "other", code=3
        )

        assert headrace_json(case, "snapshots", "verify") == [
            {"name": name, "ok": True, "reason": ""} for name in (newest, committed, oldest)
        ]
        assert headrace(case, "snapshots", "verify", oldest) == f"ok      {oldest}\n"

        would = headrace(case, "snapshots", "prune", "--dry-run")
        assert would == f"would delete {oldest} ({(folder_of(case) / oldest).stat().st_size:,} bytes)\n"
        assert headrace_json(case, "snapshots", "prune", "--keep", "1")["deleted"] == [oldest]
        assert headrace(case, "snapshots", "prune") == f"Nothing to delete in {folder_of(case)}.\n"

        case.send(labelled(number) for number in range(60, 80))
        case.run_to_end()
        assert case.workers[-1].logged("partition restored")[0]["snapshot"] == newest
        assert case.assert_exactly_once() == 80


@pytest.mark.full
def test_what_a_worker_would_not_use_is_told_and_the_last_that_it_would_use_stays(
    broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    """Damaged, forged, of other settings; and all of it without a broker too."""
    with KafkaCase(broker.bootstrap_servers, tmp_path, topic_name) as case:
        for run in range(2):
            case.send(labelled(number) for number in range(20 * run, 20 * run + 20))
            case.run_to_end()
        newest, oldest = (item["name"] for item in headrace_json(case, "snapshots", "list"))
        content = bytearray((folder_of(case) / newest).read_bytes())
        content[len(content) // 2] ^= 1
        (folder_of(case) / newest).write_bytes(content)
        forged = forge(case, oldest)

        listed = headrace(case, "snapshots", "list")
        assert listed.count("not to be used") == 2
        for name in (newest, forged):
            assert f"Not to be used: {name}: its seal is" in listed
        assert headrace_json(case, "snapshots", "show", forged)["header"] is None
        assert [item["ok"] for item in headrace_json(case, "snapshots", "verify", code=1)] == [
            False,
            False,
            True,
        ]
        assert "refused " in headrace(case, "snapshots", "verify", newest, code=1)
        assert headrace_json(case, "snapshots", "prune")["deleted"] == []

        nobody = {"HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        alone = headrace(case, "snapshots", "list", environ=nobody)
        assert "Which one is committed is not known: no broker answered at 127.0.0.1:1" in alone
        assert [line.split()[-1] for line in alone.splitlines() if oldest in line] != ["committed"]

        before = case.settings
        case.change(**OTHER)
        assert before.shape() != case.settings.shape()
        (result,) = headrace_json(case, "snapshots", "verify", oldest, code=1)
        assert "was written with other settings or versions: drift, learner, metrics" in result["reason"]
        assert headrace_json(case, "snapshots", "prune")["would_delete"] == []

        case.change(snapshots={"enabled": False})
        assert "[snapshots] is not enabled" in headrace(case, "snapshots", "list", code=3)


def forge(case: KafkaCase, name: str) -> str:
    """A state of our choice under a right name, sealed with a key that we made up."""
    key = local_key(folder_of(case).parent)
    said: Header = header_of(name, (folder_of(case) / name).read_bytes(), key)[0]
    fold = Fold(**{field: getattr(said, field) for field in Fold.__dataclass_fields__})
    state = state_after(10)
    forged = sealed(
        pickled(state),
        Tried.of(state),
        fold,
        said.next_offset + 1,
        key=b"x" * 32,
        wall_clock=0.0,
        version="0.1.0",
    )
    (folder_of(case) / forged.name).write_bytes(forged.content)
    return forged.name
