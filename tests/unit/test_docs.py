"""The documentation is held against the code: settings load, commands exist, links lead somewhere, examples run."""

import ast
import doctest
import random
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import orjson
import pytest
import trustme
import typer
from river import datasets

from monitors import Alert, DriftMonitor, DriftWatch, Incident, Status, label_health
from monitors.labels import LABEL_COUNTS
from monitors.notify.sender import problems
from stream import errors, reference
from stream.build import new_pipeline
from stream.cli import app
from stream.notifications import channels_of
from stream.records import Record
from stream.settings import Settings, load_settings
from stream.tools.cluster import Found
from stream.tools.outcomes import Buffer, Desk, Export, Wanted
from stream.tools.table import STATES, ParquetSink, columns, replaced
from tests.integration.conftest import _chain, _key

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    language, begin, lines = None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, begin, lines = line[3:].strip(), number + 1, []
        else:
            yield Block(page, begin, language, "\n".join(lines) + "\n")
            language = None
    assert language is None, f"{page}: a block is not closed"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(*languages: str) -> list[Any]:
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.language in languages]


# --- Settings --------------------------------------------------------------------------------------------

#: What a block that shows only some sections is completed with.
REST = {
    "topics": '[topics]\nevents = "payments"\n',
    "learner": '[learner]\nuse = "logistic-regression"\n',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that settings in the docs name; what is imported from it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "models", raising=False)
    authority = trustme.CA()
    client = authority.issue_cert("alice@example.org")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "client.pem").write_text(_chain(client))
    (tmp_path / "client.key").write_text(_key(client))
    (tmp_path / "kafka-password").write_text("secret")
    (tmp_path / "snapshots.key").write_text("0123456789abcdef" * 4)
    (tmp_path / "mail-url").write_text("mailtos://headrace:secret@mail.example.org?to=ops@example.org")
    (tmp_path / "webhook-url").write_text("jsons://example.org/hooks/secret")
    return tmp_path


@pytest.mark.parametrize("block", blocks("toml"))
def test_every_settings_file_in_the_docs_can_be_used(block: Block, folder: Path) -> None:
    for other in BLOCKS:
        if other.page == block.page and other.language == "python":
            (folder / _file_name(other)).write_text(other.text)
    given = tomllib.loads(block.text)
    text = block.text
    if "name" not in given:
        top = 'name = "fraud"\ntask = "binary"\n'
        text = top + text + "".join(section for name, section in REST.items() if name not in given)

    settings = load_settings(_written(folder / "settings.toml", text), {})

    assert settings.topics.predictions


#: Addresses that settings in the docs take from the environment.
ADDRESSES = {
    "SLACK_URL": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#alerts",
    "PAGERDUTY_URL": "pagerduty://A1BRTD4JD@TIiajkdnlazkcOXrIdevi7FQ",
}


@pytest.mark.parametrize("block", [it for it in blocks("toml") if "[[notifications]]" in it.values[0].text])
def test_every_channel_in_the_docs_can_be_used(block: Block, folder: Path) -> None:
    text = 'name = "fraud"\ntask = "binary"\n' + block.text + "".join(REST.values())
    settings = load_settings(_written(folder / "settings.toml", text), {})

    assert len(channels_of(settings, ADDRESSES)) == len(settings.notifications)


ADDRESS = re.compile(r"`([a-z]+://[^`<…]+)`")


def test_every_address_in_the_docs_is_one_that_apprise_takes() -> None:
    page = (ROOT / "docs" / "how-to" / "get-notified.md").read_text(encoding="utf-8")
    addresses = ADDRESS.findall(page)

    assert len(addresses) >= 5
    assert [(address, problems(address)) for address in addresses if problems(address)] == []


def _file_name(block: Block) -> str:
    match = re.match(r"# (\w+\.py)\n", block.text)
    return match[1] if match else f"line_{block.line}.py"


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# --- Links -----------------------------------------------------------------------------------------------

LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = set()
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            plain = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
            found.add(plain.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    broken = []
    for target in LINK.findall(text):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)

    assert broken == []


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    todo = [ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        targets = LINK.findall(page.read_text(encoding="utf-8"))
        todo += [
            (page.parent / target.partition("#")[0]).resolve() for target in targets if ":" not in target
        ]

    assert [str(page) for page in (ROOT / "docs").rglob("*.md") if page not in seen] == []


# --- Commands --------------------------------------------------------------------------------------------


def commands_of(text: str) -> Iterator[list[str]]:
    """Each call of headrace in a console block, or between backticks."""
    for line in text.splitlines():
        for part in re.split(r"\s*(?:\||&&|;)\s+", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words and words[0].rpartition("/")[2] == "headrace":
                yield words[1:]


def shown_commands() -> Iterator[Any]:
    for block in BLOCKS:
        if block.language in ("console", "bash", "sh"):
            for words in commands_of(block.text):
                yield pytest.param(words, id=f"{block.place}: {' '.join(words)}")
    for page, name in zip(PAGES, NAMES, strict=True):
        if name == "docs/reference/command-line.md":
            continue
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
        for quoted in dict.fromkeys(re.findall(r"`(headrace [^`]+)`", text)):
            # In a sentence a command may stand without its arguments.
            words = [word for word in shlex.split(quoted)[1:] if word not in ("SETTINGS", "FILE")]
            yield pytest.param([*words, ...], id=f"{name}: {quoted}")


@pytest.mark.parametrize("words", list(shown_commands()))
def test_every_command_in_the_docs_exists_with_its_options(words: list[Any]) -> None:
    is_whole = words[-1:] != [...]
    command: Any = typer.main.get_command(app)
    rest = [word for word in words if word is not ...]
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]

    if hasattr(command, "commands"):
        assert set(rest) <= {"--help", "--version"}, f"there is no such command: {rest}"
    elif rest[-1:] != ["--help"]:
        if not is_whole:
            needed = [item for item in command.params if item.param_type_name == "argument" and item.required]
            given = [word for word in rest if not word.startswith("-")]
            rest += ["settings.toml"] * max(0, len(needed) - len(given))
        command.make_context("headrace", rest)


# --- Python ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `outcomes.parquet` as `headrace outcomes` writes it: labels half a day late, some late or lost."""
    folder = tmp_path_factory.mktemp("notebook")
    settings = Settings.model_validate(
        {
            "name": "phishing",
            "task": "binary",
            "topics": {"events": "phishing", "outcomes": "phishing.outcomes"},
            "event": {"time": "at", "max_ahead_seconds": 1e12},
            "labels": {"expire_after_seconds": 2 * 86_400},
            "learner": {"use": "logistic-regression"},
        }
    )
    chance = random.Random(42)
    at: float
    events: list[tuple[float, dict[str, Any]]] = []
    data_set: Any = datasets.Phishing
    for number, (x, y) in enumerate(data_set()):
        at = 1_790_000_000 + 600 * number
        events.append((at, {"id": number, "at": at, "features": x}))
        if chance.random() < 0.95:
            late = at + chance.expovariate(1 / 43_200)
            events.append((late, {"id": number, "at": late, "label": y}))
    pipeline, written = new_pipeline(settings), 0
    desk = Desk("binary", Wanted(), Export(topic="phishing.outcomes", output=None), expire_after_seconds=0)
    with replaced(folder / "outcomes.parquet") as file:
        sink = ParquetSink(file, columns("binary"))
        buffer = Buffer(sink)
        for offset, (at, event) in enumerate(sorted(events, key=lambda item: item[0])):
            for output in pipeline.process(Record(0, offset, int(at * 1_000), None, orjson.dumps(event))):
                if output.to == "outcomes":
                    found = Found("phishing.outcomes", 0, written, int(at * 1_000), None, output.value, ())
                    row = desk.outcome(found)
                    assert row is not None
                    buffer.add(row, 0)
                    written += 1
        buffer.flush()
        sink.close()
    return folder


@pytest.mark.parametrize("block", blocks("pycon"))
def test_every_python_session_in_the_docs_prints_what_it_shows(
    block: Block, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    test = doctest.DocTestParser().get_doctest(block.text, {}, block.place, str(block.page), block.line)
    runner = doctest.DocTestRunner(verbose=False)

    runner.run(test)

    assert runner.summarize(verbose=False).attempted > 0
    assert runner.failures == 0


@pytest.mark.parametrize("block", blocks("python"))
def test_every_python_file_in_the_docs_is_python_and_imports_what_exists(block: Block) -> None:
    tree = ast.parse(block.text)

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            exec(compile(ast.Module([node], []), block.place, "exec"), {})


@pytest.mark.parametrize("block", blocks("json"))
def test_every_json_example_is_json(block: Block) -> None:
    for line in block.text.splitlines():
        orjson.loads(line)


def test_every_block_says_what_it_is() -> None:
    known = {"toml", "console", "pycon", "python", "json", "text", "csv", "yaml", "promql"}

    assert [block.place for block in BLOCKS if block.language not in known] == []


# --- Reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(reference.PAGES))
def test_the_pages_written_from_the_code_are_current(name: str) -> None:
    page = ROOT / "docs" / "reference" / name

    assert page.read_text(encoding="utf-8") == reference.PAGES[name](), (
        "run: python -m stream.reference docs/reference"
    )


def test_the_exit_codes_of_all_errors_are_in_the_table() -> None:
    table = reference.command_line_page().partition("## Exit codes")[2]
    codes = {kind.exit_code for kind in _subclasses(errors.HeadraceError)}

    assert [code for code in codes if f"\n| {code} |" not in table] == []


def _subclasses(kind: type[errors.HeadraceError]) -> Iterator[type[errors.HeadraceError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _subclasses(inner)


def documented(section: str) -> list[str]:
    """Names in the first column of a section's table in the page of the records."""
    page = (ROOT / "docs" / "reference" / "records.md").read_text(encoding="utf-8")
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"(?m)^\| `([\w.]+)` \|", text)


def example(section: str) -> Mapping[str, object]:
    page = (ROOT / "docs" / "reference" / "records.md").read_text(encoding="utf-8")
    text = page.partition(f"\n## {section}\n")[2].partition("```json\n")[2]
    found = orjson.loads(text.partition("\n")[0])
    assert isinstance(found, dict)
    return found


@pytest.fixture
def outputs() -> dict[str, list[Any]]:
    """What a pipeline writes: each kind of output at least once."""
    settings = Settings.model_validate(
        {
            "name": "fraud",
            "task": "binary",
            "topics": {"events": "payments", "outcomes": "fraud.outcomes"},
            "event": {"id": "tx", "label": "is_fraud", "features": ("amount", "country")},
            "learner": {"use": "logistic-regression"},
            "drift": [{"watch": "error", "detector": "ddm"}],
        }
    )
    pipeline = new_pipeline(settings)
    found: dict[str, list[Any]] = {}
    values = [b'{"tx": "a", "amount": 1.0}', b'{"tx": "a", "is_fraud": true}', b"no event"]
    values += [
        orjson.dumps({"amount": 1.0, "is_fraud": i > 60 or i % 10 == 0, "country": "DE"}) for i in range(90)
    ]
    values.append(b'{"tx": "a", "amount": 1.0}')
    for offset, value in enumerate(values):
        for output in pipeline.process(Record(3, offset, 1_000 * offset, b"k", value)):
            found.setdefault(output.to, []).append(output)
    return found


@pytest.mark.parametrize(
    ("section", "kind"), [("Prediction", "predictions"), ("Outcome", "outcomes"), ("Alert", "alerts")]
)
def test_every_field_of_an_output_is_documented_and_shown(
    section: str, kind: str, outputs: dict[str, list[Any]]
) -> None:
    written = list(orjson.loads(outputs[kind][0].value))

    assert documented(section) == [*written, "duplicate_of"] if kind == "predictions" else written
    assert list(example(section)) == written


def test_a_repeated_prediction_has_the_fields_that_are_documented(outputs: dict[str, list[Any]]) -> None:
    repeated = orjson.loads(outputs["predictions"][-1].value)
    how_to = rows_of_table("docs/how-to/read-predictions.md", "What is in it")

    assert sorted(repeated) == sorted(documented("Prediction"))
    assert sorted(repeated) == sorted(name for row in how_to for name in re.findall(r"`(\w+)`", row[0]))


def rows_of_table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of a page."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_every_state_of_a_label_is_in_the_table_with_where_it_is_counted() -> None:
    rows = rows_of_table("docs/how-to/late-labels.md", "All states")

    assert {row[0].strip("`") for row in rows} == {"pending", *STATES}
    counted = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    assert counted == {*LABEL_COUNTS} - {"questions"}
    assert all(len(row) == 5 and all(row) for row in rows)


def test_every_column_of_an_export_is_documented() -> None:
    rows = rows_of_table("docs/how-to/outcomes-in-a-notebook.md", "The columns")

    assert rows == [[f"`{column.name}`", column.meaning] for column in columns("binary")]


LATE_LABELS = [it for it in blocks("toml") if it.values[0].page.name == "late-labels.md"]


def test_each_business_has_a_policy() -> None:
    assert len(LATE_LABELS) == 4


@pytest.mark.parametrize("block", LATE_LABELS)
def test_a_pipeline_can_be_made_of_the_policy_of_each_business(block: Block, folder: Path) -> None:
    given = tomllib.loads(block.text)
    top = "" if "name" in given else 'name = "fraud"\ntask = "binary"\n'
    rest = "".join(section for name, section in REST.items() if name not in given)

    settings = load_settings(_written(folder / "settings.toml", top + block.text + rest), {})
    policy = new_pipeline(settings).state.labels.policy

    assert policy.expire_after_seconds == given["labels"]["expire_after_seconds"]
    assert policy.silence is given["labels"].get("silence")


def test_the_example_with_a_payment_comes_out_as_it_is_shown() -> None:
    settings = Settings.model_validate(
        {
            "name": "fraud",
            "task": "binary",
            "topics": {"events": "payments", "outcomes": "fraud.outcomes"},
            "event": {"time": "at", "label": "chargeback", "features": ("amount",)},
            "labels": {"expire_after_seconds": 30 * 86_400, "silence": False, "conflict": "correct"},
            "learner": {"use": "logistic-regression"},
        }
    )
    events: list[dict[str, object]] = [
        {"id": "p1", "at": "2026-11-01T10:00:00Z", "amount": 12.5},
        {"id": "p2", "at": "2026-11-01T10:01:00Z", "amount": 990},
        {"id": "p2", "at": "2026-11-18T09:00:00Z", "chargeback": True},
        {"id": "p2", "at": "2026-11-25T09:00:00Z", "chargeback": False},
        {"id": "p3", "at": "2026-12-01T10:00:01Z", "amount": 40},
        {"id": "p1", "at": "2026-12-09T12:00:00Z", "chargeback": True},
    ]
    pipeline = new_pipeline(settings)
    written = [
        output.value
        for offset, event in enumerate(events)
        for output in pipeline.process(Record(0, offset, 2_000_000_000_000, None, orjson.dumps(event)))
        if output.to == "outcomes"
    ]

    page = (ROOT / "docs" / "how-to" / "late-labels.md").read_text(encoding="utf-8")
    shown = page.partition("```json\n")[2].partition("```")[0]
    assert shown.encode().splitlines() == written


def test_every_header_of_a_dead_letter_is_documented(outputs: dict[str, list[Any]]) -> None:
    headers = [name for name, _ in outputs["dead_letters"][0].headers]

    assert documented("Dead letter") == headers


def test_every_field_of_a_status_and_of_an_alert_is_documented() -> None:
    assert documented("Status") == [item.name for item in fields(Status)]
    assert documented("Alert") == [item.name for item in fields(Alert)]
    assert documented("Incident") == [item.name for item in fields(Incident)]


def test_every_share_of_label_health_is_documented_and_shown() -> None:
    assert documented("Label health") == list(example("Label health")) == list(label_health({}))


def test_every_field_of_a_drift_watch_is_documented_and_shown() -> None:
    monitor = DriftMonitor([DriftWatch("feature:amount")], "binary", seed=1)
    monitor.predicted({"amount": 1.5}, None, at=0)
    (written,) = monitor.status()

    assert documented("Drift watch") == list(example("Drift watch")) == list(written)
    assert list(cast(Any, example("Drift watch")["distribution"])) == list(cast(Any, written["distribution"]))


# --- Words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_page_names_a_folder_of_somebodys_machine(page: Path) -> None:
    found = re.findall(r"(?<![\w.<])/(?:home|work|tmp|Users|root)/\S*", page.read_text(encoding="utf-8"))

    assert found == []
