"""The command line: `headrace`. What a command needs is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.errors import EnvironmentRefused, HeadraceError, ResourcesExhausted, in_a_line

if TYPE_CHECKING:
    from stream.settings import Settings
    from stream.tools.dead_letters import Filters
    from stream.tools.replay import Replayed
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

snapshots_app = typer.Typer(help="Look at a pipeline's snapshots.", no_args_is_help=True)
app.add_typer(snapshots_app, name="snapshots")
dead_letters_app = typer.Typer(
    help="See the records that could not be used, and send them again.", no_args_is_help=True
)
app.add_typer(dead_letters_app, name="dead-letters")

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


def load(path: Path, *, check_learner: bool = False) -> Settings:
    """Read the settings of a command; only those that learn, or read a learner's state, look at the learner."""
    from stream.settings import load_settings  # noqa: PLC0415

    return load_settings(path, check_learner=check_learner)


def check_learner_apart(path: Path) -> None:
    """Check the learner in a fork that then ends: a supervisor lives long, and has no use for River and its memory."""
    pid = os.fork()
    if pid == 0:
        load(path, check_learner=True)
        raise typer.Exit
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise typer.Exit(code if code > 0 else 1)


def fix_hash_seed() -> None:
    """Execute this command again with a fixed hash seed, unless it has one: it can't be set from within."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-P", "-m", "stream.cli", *sys.argv[1:]])


def signals_asked() -> list[int]:
    """The signals that ask this process to end, as they come; from now on they do no more than that."""
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    return asked


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
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Run a pipeline: predict, learn and watch until SIGTERM or Ctrl-C.

    If the settings name topics to be relayed, a process beside the workers does that.
    """
    fix_hash_seed()
    asked = signals_asked()  # from here on: the imports take seconds
    import structlog  # noqa: PLC0415

    from stream.logs import configure_logs  # noqa: PLC0415
    from stream.supervisor import Supervisor, child_command, end_with_parent  # noqa: PLC0415

    if with_parent:
        end_with_parent()
    configure_logs()
    settings = load(settings_file)
    relay = None
    if settings.relayed_topics and not with_parent:  # or the supervisor has started it
        relay = child_command("relay", str(settings_file), stop_at_end=stop_at_end)
    if workers > 1 or (relay is not None and not stop_at_end):
        check_learner_apart(settings_file)
    else:
        settings = load(settings_file, check_learner=True)
    if relay is not None and stop_at_end and not asked:
        # First: the workers are to see all that is relayed when they look for the ends.
        first = Supervisor([], 0, relay=relay)
        code = first.run()
        asked = signals_asked()
        if code:
            raise typer.Exit(code)
        if first.was_told_to_end:
            return
        relay = None
    if asked:
        structlog.get_logger().info("ended", reason="told to stop before it began")
        return
    if workers > 1 or relay is not None:
        command = child_command("run", str(settings_file), stop_at_end=stop_at_end)
        raise typer.Exit(Supervisor(command, workers, relay=relay).run())
    from stream.build import run_worker  # noqa: PLC0415

    run_worker(settings, stop_at_end=stop_at_end, should_stop=lambda: bool(asked))


@app.command(epilog="Example: headrace relay payments.toml --stop-at-end")
def relay(
    settings_file: SettingsFile,
    *,
    stop_at_end: Annotated[
        bool,
        typer.Option("--stop-at-end", help="Relay what is there at the start, commit, and exit with 0."),
    ] = False,
    lost: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="Where to go on in partitions whose place is lost, and in no others: relayed (behind the last record "
            "that the events topic has of them), earliest or latest. Without it such a partition is refused.",
            show_default=False,
        ),
    ] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Bring labels, or the events of other topics, into the events topic until SIGTERM or Ctrl-C.

    `headrace run` does it by itself, with a process beside the workers; this runs it alone. Several share the
    partitions.
    """
    asked = signals_asked()  # from here on: the imports take seconds
    if with_parent:
        from stream.supervisor import end_with_parent  # noqa: PLC0415

        end_with_parent()
    from stream.kafka.relay import run_relay  # noqa: PLC0415
    from stream.logs import configure_logs  # noqa: PLC0415
    from stream.relay.places import lost_of  # noqa: PLC0415

    configure_logs()
    settings = load(settings_file)
    run_relay(
        settings,
        stop_at_end=stop_at_end,
        lost=None if lost is None else lost_of(lost),
        should_stop=lambda: bool(asked),
    )


@app.command(epilog="Example: headrace merge payments-log.toml")
def merge(settings_file: SettingsFile, as_json: AsJson = False) -> None:
    """Make one log by time out of history: the topics that are relayed, as they are now, into the events topic.

    The events topic must be new. What is interrupted goes on when the command is given again, and the relay goes on
    from where it ended: nothing comes twice, and nothing is lost.
    """
    from stream.tools.merge import merge as merge_topics  # noqa: PLC0415

    settings = load(settings_file)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress_bar(f"to {settings.topics.events}") as (known, advanced):
            merged = merge_topics(settings, known=known, advanced=advanced)
    except KeyboardInterrupt:
        raise EnvironmentRefused(f"stopped. To go on: headrace merge {settings_file}") from None
    if as_json:
        print_json(merged.to_dict())
        return
    for place, (first, end) in merged.partitions.items():
        typer.echo(f"{place}: {first:,} to {end:,}")
    rate = f", {merged.records / merged.seconds:,.0f} a second" if merged.records else ""
    what = "the rest of an interrupted merge, " if merged.resumed else ""
    typer.echo(
        f"Merged {what}{merged.records:,} record{'s' * (merged.records != 1)} into {settings.topics.events} in "
        f"{merged.seconds:.1f} s{rate}. Next: headrace run {settings_file}"
    )


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
            help="Partitions of the events topic, if it is missing; by default as many as the topic of its labels has, "
            "else 1. Each gets a learner of its own.",
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
        warned = sum(item.state == "warning" for item in items)
        said = "All is well." if not warned else f"Nothing failed; {warned} to look at, above."
        typer.echo(f"{said} Next: headrace run {settings_file}")
    if failed:
        raise typer.Exit(2 if "settings" in failed else 3)


@app.command(epilog="Example: headrace monitor payments.toml clicks.toml")
def monitor(
    settings_files: Annotated[
        list[Path],
        typer.Argument(metavar="SETTINGS...", help="The settings files of the pipelines to watch."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: a free one.")] = 8800,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File that holds the token of those who may look; or set HEADRACE_MONITOR_TOKEN."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name under which browsers reach it, such as that of a proxy before it; repeatable."
        ),
    ] = None,
) -> None:
    """Watch pipelines: the dashboard, alerts for what goes wrong, notifications and an API, until Ctrl-C.

    It only reads what the workers write, and writes its own alerts beside theirs; whether it runs makes no difference
    to them.
    """
    from importlib.metadata import version  # noqa: PLC0415

    from stream.errors import ConfigError, Mistake  # noqa: PLC0415
    from stream.logs import configure_logs  # noqa: PLC0415

    missing = [module for module in ("faust", "nicegui", "apprise") if find_spec(module) is None]
    if missing:
        raise EnvironmentRefused(
            f"the monitor needs {', '.join(missing)}, which is not installed; "
            'run: pip install "headrace[monitor]"'
        )
    configure_logs()
    several = [load(path) for path in settings_files]
    from monitors.app.app import run_monitor  # noqa: PLC0415
    from stream.monitoring import monitor_config, read_token  # noqa: PLC0415

    try:
        config = monitor_config(
            several,
            host=host,
            port=port,
            token=read_token(token_file, os.environ.get("HEADRACE_MONITOR_TOKEN")),
            names=name or (),
            version=version("headrace"),
        )
    except ValueError as error:
        raise ConfigError([Mistake(place="headrace monitor", setting="", text=f": {error}")]) from error
    try:
        run_monitor(config, say=typer.echo)
    except OSError as error:
        raise EnvironmentRefused(f"{error.strerror}; choose another with --host and --port.") from error


@app.command("notify-test", epilog="Example: headrace notify-test phishing.toml")
def notify_test(settings_file: SettingsFile, as_json: AsJson = False) -> None:
    """Send a test message to each channel of [[notifications]], now and whatever its severity.

    Ends with 0 if every channel took it, with 2 if the settings are wrong or name no channel, and with 3 if one did not
    take it.
    """
    from stream.errors import ConfigError, Mistake  # noqa: PLC0415
    from stream.notifications import channels_of, send_tests  # noqa: PLC0415

    settings = load(settings_file)
    channels = channels_of(settings)
    if not channels:
        text = "is missing; expected a table for each channel, with its url, url_file or url_env."
        raise ConfigError([Mistake(place=str(settings_file), setting="[[notifications]]", text=text)])
    reasons = send_tests(settings, channels)
    if as_json:
        print_json(
            [
                {"name": channel.name, "ok": reason is None, "reason": reason or ""}
                for channel, reason in zip(channels, reasons, strict=True)
            ]
        )
    else:
        for channel, reason in zip(channels, reasons, strict=True):
            typer.secho(
                "sent    " if reason is None else "failed  ", fg="red" if reason else "green", nl=False
            )
            typer.echo(f"{channel.name}: {reason}." if reason else channel.name)
    if any(reasons):
        raise typer.Exit(3)


class Format(StrEnum):
    """What a file of events is."""

    jsonl = "jsonl"
    csv = "csv"


EventsFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", help="JSON Lines or CSV; - or nothing: standard input.", show_default=False
    ),
]

FileFormat = Annotated[
    Format | None, typer.Option("--format", help="By default from the file's name, or its beginning.")
]


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
    file: EventsFile = None,
    *,
    file_format: FileFormat = None,
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


class OutcomeState(StrEnum):
    """What became of a question or of a label."""

    joined = "joined"
    expired = "expired"
    late = "late"
    unmatched = "unmatched"
    early = "early"
    duplicate = "duplicate"
    conflicting = "conflicting"
    corrected = "corrected"


@app.command(
    epilog="Example: headrace outcomes phishing.toml --from 2026-11-20T00:00:00Z --output week.parquet"
)
def outcomes(
    settings_file: SettingsFile,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="A .csv or .parquet file, replaced once all is written; - or nothing: CSV to standard output.",
            show_default=False,
        ),
    ] = None,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="Only outcomes whose record has this timestamp or a later one, such as 2026-11-20T10:00:00Z; or from "
            "this offset of the outcomes topic on.",
            show_default=False,
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="WHERE", help="Only those before this time, or this offset.", show_default=False
        ),
    ] = None,
    partition: OnePartition = None,
    states: Annotated[
        list[OutcomeState] | None,
        typer.Option("--state", help="Only these; may be given several times.", show_default=False),
    ] = None,
    pending: Annotated[
        bool,
        typer.Option("--pending", help="Also the questions that still wait, from the predictions topic."),
    ] = False,
    spreadsheet: Annotated[
        bool,
        typer.Option(
            "--spreadsheet",
            help="Put an apostrophe before each text of the CSV that a spreadsheet would take for a formula.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print what was written as JSON, for programs; on standard error if the CSV goes to standard output.",
        ),
    ] = False,
) -> None:
    """Export what became of predictions and their labels, as CSV or Parquet for a notebook.

    One row an outcome: id, state, position, prediction, label, error and label delay. Needs [topics] outcomes.
    """
    from stream.tools.outcomes import Export, Wanted, edge_of, export, sentences_of  # noqa: PLC0415
    from stream.tools.table import STATES  # noqa: PLC0415

    settings = load(settings_file)
    named = [state.value for state in states or ()]
    wanted = Wanted(
        begin=None if begin is None else edge_of(begin, "--from"),
        end=None if end is None else edge_of(end, "--to"),
        partition=partition,
        states=[state for state in STATES if not named or state in named],
        pending=pending,
        output=None if output is None or str(output) == "-" else output,
        spreadsheet=spreadsheet,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: Export | None = None
    try:
        with quiet_pipe(), progress_bar("outcomes") as (checked, advanced):
            found = export(settings, wanted, checked=checked, advanced=advanced)
    except KeyboardInterrupt:
        raise EnvironmentRefused("stopped; no file was written.") from None
    if found is None:  # nobody reads on
        return
    if as_json:
        print_json(found.to_dict(), err=wanted.output is None)
        return
    for sentence in sentences_of(found, wanted):
        typer.echo(sentence, err=wanted.output is None)


@dead_letters_app.callback()
def dead_letters_options() -> None:
    """See the records that could not be used, and send them again."""


class StageName(StrEnum):
    """How far an event came."""

    decode = "decode"
    predict = "predict"
    score = "score"
    drift = "drift"
    learn = "learn"


Stages = Annotated[
    list[StageName] | None,
    typer.Option(
        "--stage", help="Only those that came so far; may be given several times.", show_default=False
    ),
]

OnePartition = Annotated[
    int | None, typer.Option("--partition", min=0, help="Only those of this partition.", show_default=False)
]

Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Only those whose record has this timestamp or a later one; ISO 8601 with a zone, such as "
        "2026-11-20T10:00:00Z.",
        show_default=False,
    ),
]


def filters_of(stages: list[StageName] | None, partition: int | None, since: str | None) -> Filters:
    """Which dead letters a command means."""
    from stream.records import STAGES  # noqa: PLC0415
    from stream.tools.cluster import time_of  # noqa: PLC0415
    from stream.tools.dead_letters import Filters  # noqa: PLC0415

    named = [stage.value for stage in stages or ()]
    timestamp = None if since is None else round(time_of(since, "--since").timestamp() * 1_000)
    return Filters(
        stages=[stage for stage in STAGES if not named or stage in named],
        partition=partition,
        since=timestamp,
    )


@dead_letters_app.command("list", epilog="Example: headrace dead-letters list phishing.toml --stage learn")
def dead_letters_list(
    settings_file: SettingsFile,
    *,
    stages: Stages = None,
    partition: OnePartition = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show so many at most; all are counted.")] = 50,
    oldest: Annotated[
        bool, typer.Option("--oldest", help="Show the oldest ones, oldest first, not the newest.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each, and one for the summary.")
    ] = False,
) -> None:
    """List dead letters, the newest first, and count them by stage and class of the error.

    A line says where the event stood, how far it came, what was wrong, how often it was replayed, and how its value
    begins.
    """
    from stream.tools.dead_letters import line_of, list_letters, summary_of  # noqa: PLC0415

    filters = filters_of(stages, partition, since)
    settings = load(settings_file)
    with progress_bar("dead letters") as (checked, advanced):
        found = list_letters(
            settings, filters, limit=limit, oldest_first=oldest, checked=checked, advanced=advanced
        )
    with quiet_pipe():
        if as_json:
            for body in (*found.letters, found.to_dict()):
                print_json(body)
            return
        for body in found.letters:
            typer.secho(line_of(body), fg="yellow")
        filtered = bool(stages) or partition is not None or since is not None
        for line in summary_of(found, oldest_first=oldest, filtered=filtered):
            typer.echo(line)


@dead_letters_app.command(
    "show", epilog="Example: headrace dead-letters show phishing.toml 'phishing[0]@1042', or 0@1042"
)
def dead_letters_show(
    settings_file: SettingsFile,
    position: Annotated[
        str,
        typer.Argument(
            metavar="POSITION", help="Where the event stood, as it is listed, or PARTITION@OFFSET."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter whole: headers, key, value, and its other attempts if it was replayed."""
    from stream.tools.dead_letters import lines_of, parse_position, show_letter  # noqa: PLC0415

    settings = load(settings_file)
    partition, offset = parse_position(position, settings.topics.events)
    with progress_bar("dead letters") as (_, advanced):
        shown = show_letter(settings, partition, offset, advanced)
    with quiet_pipe():
        if as_json:
            print_json(shown.to_dict())
            return
        for line in lines_of(shown):
            typer.echo(line)


@dead_letters_app.command("replay", epilog="Example: headrace dead-letters replay phishing.toml --dry-run")
def dead_letters_replay(
    settings_file: SettingsFile,
    *,
    stages: Stages = None,
    partition: OnePartition = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Send so many at most.")] = 1_000,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="Leave those whose event was replayed so often already.")
    ] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be sent; send and remember nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters to the events topic again, oldest first, each as a new event at the end of its partition.

    What was sent is remembered by partition and stage: a second replay goes on behind it. So are those that
    were left, for which the reason is told; with --since also all that are older.
    """
    from stream.tools.dead_letters import body_of, line_of  # noqa: PLC0415
    from stream.tools.replay import Replay  # noqa: PLC0415

    filters = filters_of(stages, partition, since)
    if not (dry_run or yes or sys.stdin.isatty()):
        raise typer.BadParameter(
            "replay asks before it sends, and nobody is there to answer: standard input is no terminal. "
            "Add --yes, or --dry-run to see what it would send."
        )
    settings = load(settings_file)
    replay = Replay(settings, filters, limit=limit, max_attempts=max_attempts)
    if dry_run:
        with quiet_pipe():
            report_replayed(
                replay.plan(
                    lambda letter: None if as_json else typer.secho(line_of(body_of(letter)), fg="yellow")
                ),
                as_json,
            )
        return
    if not yes:
        plan = replay.plan()
        if not plan.total:
            report_replayed(plan, as_json)
            return
        for sentence in plan.sentences():
            typer.echo(sentence, err=True)
        if not typer.confirm("Go on?", err=True):
            typer.echo("Nothing was sent.", err=True)
            return
    with progress_bar(f"to {settings.topics.events}") as (_, advanced):
        replayed = replay.send(advanced)
    report_replayed(replayed, as_json)


def report_replayed(replayed: Replayed, as_json: bool) -> None:
    """Say what was replayed."""
    if as_json:
        print_json(replayed.to_dict())
        return
    for sentence in replayed.sentences():
        typer.echo(sentence)


@contextmanager
def quiet_pipe() -> Iterator[None]:
    """End without complaint when nobody reads on, as by `| head`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.command(epilog="Example: headrace status phishing.toml")
def status(settings_file: SettingsFile, as_json: AsJson = False) -> None:
    """Show where each partition stands, and how good its learner is.

    Next offset, lag, open incidents, where the relay stands, what became of the labels, metrics beside their baselines.

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
    for table in tables(settings, view, time.time()):
        console.print(table)
    for warning in view.warnings:
        typer.secho(warning, fg="yellow")


@app.command(epilog="Example: headrace backtest phishing.toml events.csv --verify")
def backtest(
    settings_file: SettingsFile,
    file: EventsFile = None,
    *,
    file_format: FileFormat = None,
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
    delay: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|FIELD",
            help="Let each label come so many seconds of event time after its event, or as many as this field says, "
            "which then is no feature.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline over a file of events, without any broker: how good would it have been?

    The events are read as `headrace send` reads them and go through the pipeline that `headrace run` runs, as one
    partition: the same predictions, metrics, alerts and dead letters come out. With --delay each labelled event
    becomes a question and, later, its answer.
    """
    fix_hash_seed()
    from rich.console import Console  # noqa: PLC0415

    from stream.backtesting import backtest_file  # noqa: PLC0415

    settings = load(settings_file, check_learner=True)
    with progress_bar("events") as (_, advanced):
        result = backtest_file(
            settings,
            file,
            format=None if file_format is None else file_format.value,
            limit=limit,
            delay=None if delay is None else delay_of(delay),
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


def delay_of(text: str) -> float | str:
    """Seconds, or the name of a field."""
    try:
        seconds = float(text)
    except ValueError:
        return text
    if not 0 <= seconds < float("inf"):
        raise typer.BadParameter(
            f"--delay is {text}; expected a number of seconds >= 0, or the name of a field."
        )
    return seconds


@snapshots_app.callback()
def snapshots_options() -> None:
    """Look at a pipeline's snapshots: what a restarted worker goes on from."""


@snapshots_app.command("list", epilog="Example: headrace snapshots list phishing.toml")
def snapshots_list(
    settings_file: SettingsFile,
    partition: Annotated[
        int | None, typer.Option(min=0, help="Only this partition's.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the snapshots of each partition, the newest first, and which one the last commit names."""
    from rich.console import Console  # noqa: PLC0415

    from stream.tools.snapshots import SnapshotTool, table_of  # noqa: PLC0415
    from stream.tools.watch import printable  # noqa: PLC0415

    tool = SnapshotTool(load(settings_file, check_learner=True))
    entries = list(tool.entries(partition))
    if as_json:
        print_json([entry.to_dict() for entry in entries])
        return
    if not entries:
        typer.echo(f"No snapshots in {tool.address}.")
    else:
        console = Console(markup=False, highlight=False, emoji=False)
        if not console.is_terminal:
            console.width = 200  # no terminal, no edge
        console.print(table_of(entries))
        typer.echo(f"In {tool.address}.")
    for entry in entries:
        if entry.refused:
            typer.secho(printable(f"Not to be used: {entry.refused}"), fg="yellow")
    if tool.no_broker:
        typer.secho(f"Which one is committed is not known: {tool.no_broker}", fg="yellow")


@snapshots_app.command(
    "show", epilog="Example: headrace snapshots show phishing.toml 0/00000000000000001250-7c1e….snapshot"
)
def snapshots_show(
    settings_file: SettingsFile,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `snapshots list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Show all that a snapshot says about itself, once its seal holds."""
    from stream.tools.snapshots import SnapshotTool, lines_of  # noqa: PLC0415

    entry = SnapshotTool(load(settings_file, check_learner=True)).entry(name)
    if as_json:
        print_json(entry.to_dict())
        return
    for line in lines_of(entry):
        typer.echo(line)


@snapshots_app.command("verify", epilog="Example: headrace snapshots verify phishing.toml")
def snapshots_verify(
    settings_file: SettingsFile,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="As `snapshots list` shows it; by default all.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Open snapshots as a worker would: seal, header, state, and predictions on stored rows.

    Ends with 1 if a worker would not use one of them, or if there is none.
    """
    fix_hash_seed()
    from stream.tools.snapshots import SnapshotTool  # noqa: PLC0415
    from stream.tools.watch import printable  # noqa: PLC0415

    tool = SnapshotTool(load(settings_file, check_learner=True))
    entries = list(tool.entries()) if name is None else [tool.entry(name)]
    failed = not entries
    results = []
    for entry in entries:
        reason = tool.verify(entry)
        failed = failed or bool(reason)
        results.append({"name": entry.name, "ok": not reason, "reason": reason})
        if not as_json:
            typer.secho("ok      " if not reason else "refused ", fg="red" if reason else "green", nl=False)
            typer.echo(printable(reason or entry.name))
    if as_json:
        print_json(results)
    elif not entries:
        typer.echo(f"No snapshots in {tool.address}.")
    if failed:
        raise typer.Exit(1)


@snapshots_app.command("prune", epilog="Example: headrace snapshots prune phishing.toml --keep 1 --dry-run")
def snapshots_prune(
    settings_file: SettingsFile,
    keep: Annotated[int, typer.Option(min=1, help="How many stay of each partition.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all but the newest snapshots that a worker would use; the one that the last commit names stays."""
    from stream.tools.snapshots import SnapshotTool  # noqa: PLC0415

    tool = SnapshotTool(load(settings_file, check_learner=True))
    gone = list(tool.prune(keep, dry_run=dry_run))
    if as_json:
        print_json(
            {"deleted": [] if dry_run else [e.name for e in gone], "would_delete": [e.name for e in gone]}
        )
        return
    for entry in gone:
        typer.echo(f"{'would delete' if dry_run else 'deleted'} {entry.name} ({entry.size:,} bytes)")
    if not gone:
        typer.echo(f"Nothing to delete in {tool.address}.")


@app.command(epilog="Example: headrace rebuild phishing.toml")
def rebuild(
    settings_file: SettingsFile,
    *,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Learn the rows of this file before the log: JSON Lines or CSV, as for `headrace send`.",
            show_default=False,
        ),
    ] = None,
    file_format: FileFormat = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="Begin with the log's records of this time, such as 2026-01-31T00:00:00Z. By default where the "
            "present state began, or where the log begins now, if that is later.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn the state anew with the settings, the River and the Python there are now, and go on from it.

    The way to another version of River or Python, to other settings, or to another learner. The workers may run
    meanwhile, with the settings they were started with; stop them when this command says so, and start them again
    when it is done. Predictions that are out stay. Ctrl-C before the end changes nothing.
    """
    fix_hash_seed()
    from stream.tools.cluster import time_of  # noqa: PLC0415
    from stream.tools.rebuild import RebuildOptions  # noqa: PLC0415
    from stream.tools.rebuild import rebuild as rebuild_state  # noqa: PLC0415

    settings = load(settings_file, check_learner=True)
    options = RebuildOptions(
        rows=rows,
        format=None if file_format is None else file_format.value,
        start=None if start is None else time_of(start, "--from"),
    )
    told: list[int] = []

    def waiting(workers: int) -> None:
        if told[-1:] != [workers]:
            told.append(workers)
            typer.echo(
                f"The new state is ready, and follows the log. {workers} worker{'s' * (workers > 1)} still to be "
                "stopped: stop them now, and it takes their place (Ctrl-C: nothing is changed).",
                err=True,
            )

    try:
        with progress_bar("records") as (known, advanced):

            def progress(done: int, of: int) -> None:
                known(of)
                advanced(done)

            rebuilt = rebuild_state(settings, options, waiting=waiting, advanced=progress)
    except KeyboardInterrupt:
        raise EnvironmentRefused("stopped; nothing was changed.") from None
    if as_json:
        print_json([item.to_dict() for item in rebuilt])
        return
    for item in rebuilt:
        figures = ", ".join(
            f"{name} {figure['value']:.6g}"
            for name, figure in item.metrics.items()
            if figure["value"] is not None
        )
        typer.echo(
            f"partition {item.partition}: {item.learned:,} labels learned from {item.events:,} events"
            + (f" ({item.rows:,} rows of {rows})" if item.rows else "")
            + (f", {item.dead_letters:,} dead letters" if item.dead_letters else "")
            + f", log {item.origin:,} to {item.next_offset:,}; {figures or 'nothing scored'}"
        )
        notes = []
        if item.missing:
            notes.append(f"the log no longer has {item.missing:,} offsets that the old state had learned")
        if item.unpredicted:
            notes.append(
                f"{item.unpredicted:,} offsets were deleted from the log before they were predicted on"
            )
        if item.lacks_rows:
            notes.append("the old state began with a file of rows, which the new one does not know (--rows)")
        for note in notes:
            typer.secho(f"  {note}", fg="yellow")
    typer.echo(f"Done. Start the workers again: headrace run {settings_file}")


@app.command(epilog="Example: headrace reset phishing.toml --from latest")
def reset(
    settings_file: SettingsFile,
    *,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="Where the new state begins: committed (where the old one stopped, the default), earliest, latest, "
            "or a time such as 2026-01-31T00:00:00Z.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Throw the state away and begin with an empty learner; says what that loses, and asks.

    Outputs that are out stay where they are. The workers must be stopped.
    """
    from stream.tools.cluster import Cluster  # noqa: PLC0415
    from stream.tools.reset import Reset, start_of  # noqa: PLC0415

    settings = load(settings_file, check_learner=True)
    with Cluster(settings) as cluster:
        prepared = Reset(cluster, settings, None if start is None else start_of(start))
        if not (as_json and yes):
            for loss in prepared.losses:
                typer.echo(str(loss), err=as_json)
        if not yes:
            confirm(f"Throw the state of {settings.name} away?", err=as_json)
        prepared.do()
    if as_json:
        print_json([loss.to_dict() for loss in prepared.losses])
    else:
        typer.echo(f"Done. The next worker begins anew: headrace run {settings_file}")


def confirm(question: str, *, err: bool) -> None:
    """Ask on the terminal; without one, or without a yes, refuse."""
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "there is no terminal to ask on; --yes does it without asking. Nothing was changed."
        )
    if not typer.confirm(question, err=err):
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


def print_json(body: object, *, err: bool = False) -> None:
    """Print JSON on a line of its own."""
    import orjson  # noqa: PLC0415

    out = sys.stderr if err else sys.stdout
    out.write(orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    out.flush()


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


def require_pinned_river(error: Exception) -> None:
    """Refuse with a sentence if an error came of another River than the one we are made for.

    That is one that came while modules were imported, or of something that River's modules lack.

    Raises:
        EnvironmentRefused: It did; names both versions.
    """
    import traceback  # noqa: PLC0415
    from importlib.metadata import PackageNotFoundError, requires, version  # noqa: PLC0415

    lacks = getattr(error.obj, "__name__", "") if isinstance(error, AttributeError) else ""
    if not lacks.startswith("river") and all(
        frame.name != "<module>" for frame in traceback.extract_tb(error.__traceback__)
    ):
        return
    try:
        pins, found = requires("headrace") or (), version("river")
    except PackageNotFoundError:
        return
    pinned = [pin.removeprefix("river==") for pin in pins if pin.startswith("river==")]
    if pinned and found != pinned[0]:
        raise EnvironmentRefused(
            f"River {found} is installed, and this version of Headrace is made for {pinned[0]}: it can't "
            f"be used ({in_a_line(error)}). Put that River back, or install the Headrace that goes with this one, "
            "and then: headrace rebuild. The state that is there stays as it is."
        ) from error


def report_bug(error: Exception) -> str:
    """Show where an unexpected error comes from, through the log if there is one; returns the last line."""
    import traceback  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    if structlog.is_configured():
        structlog.get_logger().error("stopped by an unexpected error", exc_info=error)
    else:
        traceback.print_exception(error)
    where = "".join(f" {note}" for note in getattr(error, "__notes__", ()) if note.startswith("at "))
    return (
        f"stopped by an error that is a bug: {in_a_line(error)}{where}. The traceback is above: please report it. "
        "Nothing that was committed is lost; a worker that is started again goes on from there."
    )


def main() -> None:
    """Run the command line. Whatever ends it early is said in the last line, and by the exit code."""
    try:
        require_our_packages()
        app()
    except HeadraceError as error:
        typer.echo(f"headrace: {error}", err=True)
        sys.exit(error.exit_code)
    except MemoryError:
        typer.echo("headrace: out of memory. Give the process more, and start it again.", err=True)
        sys.exit(ResourcesExhausted.exit_code)
    except Exception as error:
        try:
            require_pinned_river(error)
        except EnvironmentRefused as refused:
            typer.echo(f"headrace: {refused}", err=True)
            sys.exit(refused.exit_code)
        typer.echo(f"headrace: {report_bug(error)}", err=True)
        sys.exit(HeadraceError.exit_code)


if __name__ == "__main__":
    main()
