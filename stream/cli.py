"""The command line: `headrace`. What a command needs is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.errors import HeadraceError

if TYPE_CHECKING:
    from stream.settings import Settings

app = typer.Typer(
    name="headrace",
    help="Streaming online learning: events from Kafka, a River model that learns live, "
    "predictions and drift alerts back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SettingsFile = Annotated[
    Path, typer.Argument(metavar="SETTINGS", help="The pipeline's settings file (TOML).")
]

#: Hash order is the same in every process that runs a pipeline, or a replay could differ from the first run.
HASH_SEED = "0"


def load(path: Path) -> Settings:
    """Read the settings of a command."""
    from stream.settings import load_settings  # noqa: PLC0415

    return load_settings(path)


def fix_hash_seed() -> None:
    """Execute this command again with a fixed hash seed, unless it has one: it can't be set from within."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "stream.cli", *sys.argv[1:]])


@app.command()
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
    from stream.build import run_worker  # noqa: PLC0415
    from stream.logs import configure_logs  # noqa: PLC0415

    configure_logs()
    settings = load(settings_file)
    if workers > 1:
        from stream.supervisor import run_workers, worker_command  # noqa: PLC0415

        raise typer.Exit(run_workers(worker_command(str(settings_file), stop_at_end=stop_at_end), workers))
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    run_worker(settings, stop_at_end=stop_at_end, should_stop=lambda: bool(asked))


@app.command()
def broker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 9092,
    data: Annotated[Path, typer.Option(help="Folder of its data and its log.")] = Path(".headrace/broker"),
) -> None:
    """Run a real Kafka broker on this machine, without Docker or Java: for trying out, tests and demos."""
    from stream.broker import run_broker  # noqa: PLC0415

    raise typer.Exit(run_broker(data, port))


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the pipeline; the file is NAME.toml.")] = "phishing",
) -> None:
    """Write a short commented settings file that works as it is with `headrace broker`."""
    from stream.settings import example_settings  # noqa: PLC0415

    path = Path(f"{name}.toml")
    if path.exists():
        raise typer.BadParameter(f"{path} is there already; choose another name or remove it.")
    path.write_text(example_settings(name), encoding="utf-8")
    typer.echo(f"Wrote {path}.")


def main() -> None:
    """Run the command line; an error that is somebody's to mend ends it with its sentence and its exit code."""
    try:
        app()
    except HeadraceError as error:
        typer.echo(f"headrace: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
