"""The command line: `headrace`. What a command needs is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.errors import EnvironmentRefused, HeadraceError

if TYPE_CHECKING:
    from stream.settings import Settings
    from stream.tools.send import Sent

app = typer.Typer(
    name="headrace",
    help="Streaming online learning: events from Kafka, a River model that learns live, "
    "predictions and drift alerts back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

topics_app = typer.Typer(help="Make a pipeline's topics.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")

SettingsFile = Annotated[
    Path, typer.Argument(metavar="SETTINGS", help="The pipeline's settings file (TOML).")
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

#: Hash order is the same in every process that runs a pipeline, or a replay could differ from the first run.
HASH_SEED = "0"


def show_version(asked: bool) -> None:
    """`headrace --version`."""
    if asked:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"headrace {version('headrace')}")
        raise typer.Exit


def load(path: Path) -> Settings:
    """Read the settings of a command."""
    from stream.settings import load_settings  # noqa: PLC0415

    return load_settings(path)


def fix_hash_seed() -> None:
    """Execute this command again with a fixed hash seed, unless it has one: it can't be set from within."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-P", "-m", "stream.cli", *sys.argv[1:]])


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=show_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """What comes before a command."""


@app.command(epilog="Example: headrace run phishing.toml")
def run(
    settings_file: SettingsFile,
    workers: Annotated[int, typer.Option(min=1, help="Processes; partitions are shared out among them.")] = 1,
    stop_at_end: Annotated[
        bool,
        typer.Option("--stop-at-end", help="Process what is there at the start, commit, and exit with 0."),
    ] = False,
) -> None:
    """Run a pipeline: predict, learn and watch until SIGTERM or Ctrl-C."""
    fix_hash_seed()
    asked: list[int] = []  # from here on: the imports take seconds
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    from stream.build import run_worker  # noqa: PLC0415
    from stream.logs import configure_logs  # noqa: PLC0415

    configure_logs()
    settings = load(settings_file)
    if asked:
        return
    if workers > 1:
        from stream.supervisor import run_workers, worker_command  # noqa: PLC0415

        raise typer.Exit(run_workers(worker_command(str(settings_file), stop_at_end=stop_at_end), workers))
    run_worker(settings, stop_at_end=stop_at_end, should_stop=lambda: bool(asked))


@app.command(epilog="Example: headrace broker --port 9092")
def broker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 9092,
    data: Annotated[Path, typer.Option(help="Folder of its data and its log.")] = Path(".headrace/broker"),
) -> None:
    """Run a real Kafka broker on this machine, without Docker or Java: for trying out, tests and demos."""
    from stream.broker import run_broker  # noqa: PLC0415

    raise typer.Exit(run_broker(data, port))


@app.command(epilog="Example: headrace init payments, which writes payments.toml")
def init(
    name: Annotated[str, typer.Argument(help="Name of the pipeline; the file is NAME.toml.")] = "phishing",
) -> None:
    """Write a short commented settings file that works as it is with `headrace broker`."""
    from stream.settings import example_settings  # noqa: PLC0415
    from stream.settings.tree import NAME  # noqa: PLC0415

    if NAME.fullmatch(name) is None:
        raise typer.BadParameter(
            f"{name!r} is no name for a pipeline; expected 1 to 100 of a-z, 0-9, dot, underscore and hyphen, "
            "a letter or digit first."
        )
    path = Path(f"{name}.toml")
    if path.exists():
        raise typer.BadParameter(f"{path} is there already; choose another name or remove it.")
    path.write_text(example_settings(name), encoding="utf-8")
    typer.echo(f"Wrote {path}.")


@topics_app.callback()
def topics_options() -> None:
    """Make a pipeline's topics."""


@topics_app.command("create", epilog="Example: headrace topics create phishing.toml --partitions 4")
def topics_create(
    settings_file: SettingsFile,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Partitions of the events topic, if it is missing; 1 by default. Each gets a learner of its own.",
        ),
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, help="Copies of each new topic; by default what the broker has set.")
    ] = None,
    configure: Annotated[
        bool,
        typer.Option(
            "--configure", help="Also set what is wrong in the configuration of outputs that are there."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the topics that are missing, as the pipeline needs them.

    What is there stays as it is, and is refused if the pipeline can't work with it.
    """
    from stream.tools.topics import create_topics, meaning  # noqa: PLC0415

    settings = load(settings_file)
    made = create_topics(
        settings, partitions=partitions, replication_factor=replication_factor, configure=configure
    )
    if as_json:
        print_json(
            {
                "created": [facts.name for facts in made.topics.values() if facts.name in made.created],
                "existing": [facts.name for facts in made.topics.values() if facts.name not in made.created],
                "configured": made.configured,
                "partitions": made.topics["events"].partitions,
                "warnings": [item.to_dict() for item in made.warnings],
            }
        )
        return
    for purpose, facts in made.topics.items():
        word = "made" if facts.name in made.created else "was there"
        changes = ", ".join(f"{key}={value}" for key, value in made.configured.get(facts.name, {}).items())
        typer.echo(
            f"{word:10} {facts.name} ({purpose.replace('_', ' ')})" + (f", set {changes}" if changes else "")
        )
    for item in made.warnings:
        typer.echo(f"warning    {item.item}: {item.text} To mend it: {item.remedy}")
    typer.echo(meaning(made.topics["events"].partitions))


@app.command(epilog="Example: headrace check phishing.toml")
def check(settings_file: SettingsFile, as_json: AsJson = False) -> None:
    """Look whether all is as a pipeline needs it, and say what to do.

    Looks at settings, learner, the broker with each client, topics, partitions and committed offsets.

    Ends with 0 if nothing failed, with 2 if the settings are wrong and with 3 if something else failed.
    """
    from stream.tools.check import check as look  # noqa: PLC0415

    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    items = []
    for item in look(settings_file):
        items.append(item)
        if not as_json:
            typer.secho(f"{item.state:8}", fg=colours[item.state], nl=False)
            typer.echo(f"{item.item}: {item.text}")
            if item.remedy:
                typer.echo(f"        To mend it: {item.remedy}")
    failed = [item.item for item in items if item.state == "failed"]
    if as_json:
        print_json({"ok": not failed, "items": [item.to_dict() for item in items]})
    elif failed:
        typer.secho(f"Failed: {', '.join(dict.fromkeys(failed))}.", fg="red")
    else:
        typer.echo(f"All is well. Next: headrace run {settings_file}")
    if failed:
        raise typer.Exit(2 if "settings" in failed else 3)


class Format(StrEnum):
    """What a file of events is."""

    jsonl = "jsonl"
    csv = "csv"


class Hash(StrEnum):
    """What decides on a key's partition."""

    murmur2 = "murmur2"
    crc32 = "crc32"


@app.command(
    epilog="Examples: headrace send phishing.toml events.csv --rate 100, "
    "or: tail -f events.jsonl | headrace send phishing.toml"
)
def send(
    settings_file: SettingsFile,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="JSON Lines or CSV; - or nothing: standard input.", show_default=False
        ),
    ] = None,
    *,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="By default from the file's name, or its beginning.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Field whose value is the record's key. By default the event's id, where it has one: so an "
            "answer gets to the partition of its question.",
        ),
    ] = None,
    no_key: Annotated[
        bool, typer.Option("--no-key", help="Send without keys, to each partition in turn.")
    ] = False,
    partitioner: Annotated[
        Hash,
        typer.Option(
            help="What decides on the partition of a key: murmur2 as in Java and kafka-python, or crc32 as in "
            "librdkafka (confluent-kafka). Questions and answers must be sent with the same one."
        ),
    ] = Hash.murmur2,
    partition: Annotated[
        int | None, typer.Option(min=0, help="Send everything to this partition.", show_default=False)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Events per second; by default as fast as it goes.", show_default=False),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Send each line as it is, even if it is no JSON object.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send events from a file or standard input, JSON Lines or CSV.

    JSON lines are sent byte for byte. Of a CSV file each row becomes a JSON object with its columns where the
    settings look for them: numbers, true and false are recognised, an empty value is a missing one.
    """
    from stream.tools.send import SendOptions  # noqa: PLC0415
    from stream.tools.send import send as send_rows  # noqa: PLC0415

    if key is not None and no_key:
        raise typer.BadParameter("--key and --no-key are both given; expected one of them.")
    if raw and file_format is Format.csv:
        raise typer.BadParameter("--raw sends lines as they are, not as CSV; expected one of them.")
    settings = load(settings_file)
    options = SendOptions(key=key, no_key=no_key, partitioner=partitioner.value, partition=partition, raw=raw)
    with progress_bar(f"to {settings.topics.events}") as (checked, advanced):
        sent = send_rows(
            settings,
            file,
            format=None if file_format is None else file_format.value,
            options=options,
            rate=rate,
            checked=checked,
            advanced=advanced,
        )
    report_sent(sent, settings.topics.events, as_json)


def report_sent(sent: Sent, topic: str, as_json: bool) -> None:
    """Say what was sent."""
    if as_json:
        print_json({"events": sent.events, "seconds": sent.seconds, "partitions": sent.partitions})
        return
    where = ", ".join(f"{topic}[{partition}]: {count:,}" for partition, count in sent.partitions.items())
    rate = f", {sent.events / sent.seconds:,.0f} a second" if sent.seconds > 0 and sent.events else ""
    events = f"{sent.events:,} event{'' if sent.events == 1 else 's'}"
    typer.echo(f"Sent {events} in {sent.seconds:.1f} s{rate}" + (f" ({where})." if where else "."))


@contextmanager
def progress_bar(what: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """A bar on standard error, if that is a terminal: told how many there will be, and how many there are."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=None)
        yield (
            lambda total: progress.update(task, total=total),
            lambda completed: progress.update(task, completed=completed),
        )


@app.command(epilog="Example: headrace watch phishing.toml --from-beginning --json --limit 10")
def watch(
    settings_file: SettingsFile,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with what is there, not with what comes next.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each output.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="End after so many outputs.", show_default=False)
    ] = None,
) -> None:
    """Show predictions, alerts and dead letters as they come.

    Ctrl-C ends it. Only what is committed is shown, so that nothing is shown twice.
    """
    from contextlib import closing  # noqa: PLC0415

    from stream.tools.watch import line_of  # noqa: PLC0415
    from stream.tools.watch import watch as outputs  # noqa: PLC0415

    settings = load(settings_file)
    colours = {"prediction": None, "alert": "red", "dead_letter": "yellow"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with closing(outputs(settings, from_beginning=from_beginning)) as found:
            shown = 0
            for seen in found:
                if seen is None:
                    continue
                if as_json:
                    print_json(seen.body)
                else:
                    typer.secho(line_of(seen, settings.topics.events), fg=colours[seen.output])
                shown += 1
                if shown == limit:
                    break
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command(epilog="Example: headrace status phishing.toml")
def status(settings_file: SettingsFile, as_json: AsJson = False) -> None:
    """Show where each partition stands, and how good its learner is.

    Next offset, lag, labels learned, metrics beside their baselines, last drift.

    A figure over all partitions is a mean weighted by events, and only of metrics that are means.
    """
    from rich.console import Console  # noqa: PLC0415

    from stream.tools.status import read_status, tables  # noqa: PLC0415

    settings = load(settings_file)
    view = read_status(settings)
    if as_json:
        print_json(view.to_dict())
        return
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 200  # no terminal, no edge
    for table in tables(settings, view):
        console.print(table)
    for warning in view.warnings:
        typer.secho(warning, fg="yellow")


@app.command(epilog="Example: headrace backtest phishing.toml events.csv --verify")
def backtest(
    settings_file: SettingsFile,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="JSON Lines or CSV; - or nothing: standard input.", show_default=False
        ),
    ] = None,
    *,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="By default from the file's name, or its beginning.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take so many events at most.", show_default=False)
    ] = None,
    predictions: Annotated[
        typer.FileBinaryWrite | None,
        typer.Option(
            metavar="FILE",
            help="Write the predictions there, JSON Lines as on the predictions topic.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compute the metrics by River's progressive_val_score as well; exit code 1 if one differs.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline over a file of events, without any broker: how good would it have been?

    The events are read as `headrace send` reads them and go through the pipeline that `headrace run` runs, as one
    partition: the same predictions, metrics, alerts and dead letters come out.
    """
    fix_hash_seed()
    from rich.console import Console  # noqa: PLC0415

    from stream.backtesting import backtest_file  # noqa: PLC0415

    settings = load(settings_file)
    with progress_bar("events") as (_, advanced):
        result = backtest_file(
            settings,
            file,
            format=None if file_format is None else file_format.value,
            limit=limit,
            verify=verify,
            on_prediction=None if predictions is None else lambda value: predictions.write(value + b"\n"),
            on_row=advanced,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        console = Console(highlight=False, emoji=False)
        if not console.is_terminal:
            console.width = 200  # no terminal, no edge
        console.print(result)
    if result.equal is False:
        raise typer.Exit(1)


class TaskName(StrEnum):
    """What is predicted."""

    binary = "binary"
    multiclass = "multiclass"
    regression = "regression"


@app.command(epilog="Example: headrace catalog regression")
def catalog(
    task: Annotated[
        TaskName | None, typer.Argument(help="Only what fits this task.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the learners, metrics and detectors that settings may name."""
    from stream.tools.catalog import catalog as entries  # noqa: PLC0415

    found = list(entries(None if task is None else task.value))
    if as_json:
        print_json(found)
        return
    headings = {
        "learner": "[learner] use =",
        "metric": "[metrics] use = a list of",
        "detector": "[[drift]] detector =",
    }
    for kind, heading in headings.items():
        typer.echo(heading)
        for entry in found:
            if entry["kind"] == kind:
                typer.echo(f"  {entry['name']:22} {entry['summary']}")
        typer.echo("")


def print_json(body: object) -> None:
    """Print JSON on a line of its own."""
    import orjson  # noqa: PLC0415

    sys.stdout.write(orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


def require_our_packages() -> None:
    """Refuse to start where `learners` or `monitors` is another package of that name.

    Raises:
        EnvironmentRefused: One is; says where it lies.
    """
    ours = Path(__file__).resolve().parent.parent
    for name in ("learners", "monitors"):
        found = find_spec(name)
        if found is None or found.origin is None or Path(found.origin).resolve().parent.parent != ours:
            where = "nowhere" if found is None else found.origin or "a folder without __init__.py"
            raise EnvironmentRefused(
                f"the package {name!r} of Headrace is hidden by another ({where}); expected it in {ours}. "
                "Rename that one, or take its folder out of PYTHONPATH."
            )


def main() -> None:
    """Run the command line; an error that is somebody's to mend ends it with its sentence and its exit code."""
    try:
        require_our_packages()
        app()
    except HeadraceError as error:
        typer.echo(f"headrace: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
