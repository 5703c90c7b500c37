"""Pages of `docs/reference` that are written from the code: settings, learners, metrics, command line and so on.

`python -m stream.reference docs/reference` writes them; a test sees that they are current.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from learners.learner import TASKS
from learners.registry import LEARNERS, LearnerSpec
from monitors import DETECTORS, METRICS
from monitors.fleet.watchdogs import Bounds, Watchdog
from monitors.telemetry import Family, Teller, families
from stream.cli import app
from stream.errors import (
    ConfigError,
    DeadLetterBudgetSpent,
    EnvironmentRefused,
    FencedError,
    HeadraceError,
    ResourcesExhausted,
)
from stream.settings import Settings
from stream.settings.tree import section_of
from stream.settings.words import expected, header, shown

#: Width of a help text, characters.
HELP_WIDTH: Final = 100
WRITTEN_BY: Final = "Written by `python -m stream.reference docs/reference`; change it in"


def settings_page() -> str:
    """Every setting, in Markdown."""
    lines = [
        "# Settings",
        "",
        f"One TOML file for each pipeline. {WRITTEN_BY} `stream/settings/`.",
        "",
        "A setting also comes from the environment, which wins over the file: `HEADRACE_TASK`, "
        "`HEADRACE_KAFKA__BOOTSTRAP_SERVERS`, in general `HEADRACE_SECTION__KEY`. Lists and tables are "
        "written as JSON (`HEADRACE_METRICS__USE='[\"accuracy\"]'`, `HEADRACE_DRIFT` for all detectors, "
        "`HEADRACE_NOTIFICATIONS` for all channels); an "
        "empty variable counts as not set; a variable that names no setting is a mistake.",
    ]
    plain = {name: field for name, field in Settings.model_fields.items() if section_of(field) is None}
    lines += ["", "## At the top of the file", "", *_settings_table(plain)]
    for name, field in Settings.model_fields.items():
        section = section_of(field)
        if section is not None:
            lines += ["", f"## `{header(name)}`", "", section.__doc__ or "", ""]
            lines += _settings_table(section.model_fields)
    return "\n".join(lines) + "\n"


def _settings_table(fields: Mapping[str, FieldInfo]) -> list[str]:
    return _table(
        ["setting", "default", "expected", "meaning"],
        (
            [f"`{name}`", _default(field), expected(field), str(field.description)]
            for name, field in fields.items()
        ),
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    return "" if default in (None, {}, "", ()) else f"`{shown(default)}`"


def learners_page() -> str:
    """Every learner of the registry and its parameters, in Markdown."""
    lines = [
        "# Learners",
        "",
        f"{WRITTEN_BY} `learners/registry.py`.",
        "",
        "A learner is named in the settings: `[learner] use`. One of your own is named by `build`: see",
        "[Use a learner of your own](../how-to/use-your-own-learner.md).",
        "",
        "Features need no preparation: where the model behind a learner needs it, numbers are scaled and strings",
        "become 0/1 features (at most `max_categories` for each feature, all further ones count as one). Every random",
        "part is seeded by `[learner] seed`.",
        "",
        *_table(
            ["name", *TASKS, "what it is"],
            (
                [
                    f"[`{spec.name}`](#{spec.name})",
                    *("yes" if task in spec.models else "" for task in TASKS),
                    spec.summary,
                ]
                for spec in LEARNERS.values()
            ),
        ),
    ]
    for spec in LEARNERS.values():
        lines += ["", f"## {spec.name}", "", spec.summary]
        for tasks, parameters in _parameters(spec):
            models = " and ".join(
                dict.fromkeys(f"`{spec.models[task].__name__}`" for task in TASKS if task in tasks)
            )
            lines += ["", f"For {', '.join(tasks)}: River's {models}."]
            if parameters:
                names = (f"`{name}` ({_shown(default)})" for name, default in parameters.items())
                lines[-1] += f" Parameters, with their defaults: {', '.join(names)}."
            else:
                lines[-1] += " It has no parameters."
    return "\n".join(lines) + "\n"


def _parameters(spec: LearnerSpec) -> list[tuple[list[str], Mapping[str, object]]]:
    """Parameters and their defaults; tasks of the same ones together."""
    found: list[tuple[list[str], Mapping[str, object]]] = []
    for task in spec.tasks:
        defaults = {name: parameter.default for name, parameter in spec.parameters(task).items()}
        same = [tasks for tasks, others in found if others == defaults]
        if same:
            same[0].append(task)
        else:
            found.append(([task], defaults))
    return found


def metrics_page() -> str:
    """Every metric, in Markdown."""
    return "\n".join(
        [
            "# Metrics",
            "",
            f"{WRITTEN_BY} `monitors/prequential.py`.",
            "",
            "Metrics are named in `[metrics] use`. Each is River's own, computed on predictions that were made before",
            "their label was learned, over everything (`value`) and over the last `[metrics] window` predictions",
            "(`window`). The first one named is also computed for two baselines: the label before (`no_change`), and",
            "the most frequent class so far (`majority`) or the mean so far (`mean`).",
            "",
            "*Mean*: the figure is a mean over events, so figures of several partitions may be averaged, weighted by",
            "events. All others exist for one partition at a time.",
            "",
            *_table(
                ["name", "for", "better is", "looks at", "mean", "what it is"],
                (
                    [
                        f"`{spec.name}`",
                        ", ".join(spec.tasks),
                        "higher" if spec.higher_is_better else "lower",
                        "probabilities" if spec.needs_scores else "the prediction",
                        "yes" if spec.is_mean else "",
                        spec.summary,
                    ]
                    for spec in METRICS.values()
                ),
            ),
            "",
        ]
    )


def detectors_page() -> str:
    """Every drift detector and its parameters, in Markdown."""
    lines = [
        "# Drift detectors",
        "",
        f"{WRITTEN_BY} `monitors/drift.py`.",
        "",
        "A detector is named in a table `[[drift]]`, with what it watches:",
        "",
        *_table(
            ["watch", "values", "known with", "for"],
            [
                ["`error`", "0 or 1; regression: the absolute error", "the label", "every task"],
                ["`label`", "0 or 1; regression: the number", "the label", "binary, regression"],
                ["`label:CLASS`", "1 if the label is that class, else 0", "the label", "multiclass"],
                [
                    "`label_delay`",
                    "seconds of event time from a question to its label; negative: the label came first",
                    "a label in a record of its own",
                    "every task",
                ],
                ["`prediction`", "0 or 1; regression: the number", "the features", "binary, regression"],
                [
                    "`feature:NAME`",
                    "a numeric feature (a boolean is 0 or 1); others are skipped and counted",
                    "the features",
                    "every task",
                ],
            ],
        ),
        "",
        "*Any number*: it may watch anything. *0 and 1*: it may watch neither a feature nor the label delay, and "
        "nothing of a regression.",
        "",
        *_table(
            ["name", "takes", "warns first", "what it is"],
            (
                [
                    f"[`{spec.name}`](#{spec.name})",
                    "0 and 1" if spec.binary_input else "any number",
                    "yes" if spec.has_warning else "",
                    spec.summary,
                ]
                for spec in DETECTORS.values()
            ),
        ),
    ]
    for spec in DETECTORS.values():
        given = inspect.signature(spec.river).parameters
        lines += [
            "",
            f"## {spec.name}",
            "",
            f"River's `{getattr(spec.river, '__name__', spec.name)}`: {spec.summary}."
            + (" Its seed is that of the learner unless it is set." if spec.seedable else ""),
            "",
            *_table(
                ["parameter", "default", "expected"],
                (
                    [f"`{name}`", _shown(given[name].default), rule.expected()]
                    for name, rule in spec.parameters.items()
                ),
            ),
        ]
    return "\n".join(lines) + "\n"


def command_line_page() -> str:
    """Every command with its help text, and the exit codes, in Markdown."""
    lines = [
        "# Command line",
        "",
        f"{WRITTEN_BY} `stream/cli.py`.",
        "",
        "Settings also come from the environment: see [Settings](settings.md).",
    ]
    for path in ([], *commands()):
        name = " ".join(["headrace", *path])
        lines += ["", f"## {name}", "", "```text", _help(path), "```"]
    lines += [
        "",
        "## Exit codes",
        "",
        "A command that fails says why in the last line on standard error, and ends with one of these.",
        "",
        *_table(
            ["exit code", "meaning"],
            [
                [
                    "0",
                    "Done; a worker was told to stop and has committed, or `--stop-at-end` came to the end.",
                ],
                [
                    f"{HeadraceError.exit_code}",
                    "A bug: a traceback, and a last line that says on which record. Or `backtest --verify` found a "
                    "difference.",
                ],
                [
                    f"{ConfigError.exit_code}",
                    "The settings file, an option or a file of rows is wrong: mend it and start again.",
                ],
                [
                    f"{EnvironmentRefused.exit_code}",
                    "Kafka is not as the pipeline needs it: broker, topics, permissions or offsets. Of `notify-test`: "
                    "a channel did not take the message.",
                ],
                [
                    f"{FencedError.exit_code}",
                    "Another process uses this worker's transactional id: give each its own `[worker] instance`.",
                ],
                [
                    f"{DeadLetterBudgetSpent.exit_code}",
                    "More dead letters than `[worker] dead_letter_budget`: mend the producer or `[event]`.",
                ],
                [
                    f"{ResourcesExhausted.exit_code}",
                    "Memory, disk, files or stack ran out while a record was processed: give the worker more.",
                ],
                [
                    "128 + n",
                    "With `--workers`: the worker that it gave up on was ended by signal n (137: killed). If that one "
                    "ended by itself, its own exit code.",
                ],
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def prometheus_page() -> str:
    """Every family of series at the `/metrics` of a worker and of the monitor, in Markdown."""
    lines = [
        "# Prometheus metrics",
        "",
        f"{WRITTEN_BY} `monitors/telemetry.py`. [How to scrape them](../how-to/scrape-with-prometheus.md).",
        "",
        "Labels have values from the settings or from short lists, never from events, and at most 200 characters. Of",
        "their processes a worker and the monitor also export `process_resident_memory_bytes`,",
        "`process_cpu_seconds_total` and the others that every Prometheus client has.",
        "",
        "## Of a worker",
        "",
        "At `/metrics`, beside `/healthz` (`[health] host` and `port`).",
        "",
        "* Counters of a partition are of what this worker has *committed* since it began. What it replays and what is",
        "  aborted counts for nothing, so the rates of all workers add up to what happened.",
        "* `partition` is that of the events topic. A partition that leaves the worker leaves its `/metrics`.",
        "* *As of the last status*: at most `[worker] status_interval_seconds` old; absent until there is one.",
        "",
        *_families_table("worker"),
        "",
        "## Of the monitor",
        "",
        "At `/metrics` beside the dashboard, with the same token (`Authorization: Bearer TOKEN`). Counters are of what",
        "it has seen since it began, history included.",
        "",
        *_families_table("monitor"),
    ]
    for spec in (family.value for family in Family):
        lines += ["", f"## {spec.name}", "", spec.meaning]
        if spec.buckets:
            lines += ["", f"Buckets: {', '.join(f'{bound:,g}' for bound in spec.buckets)} {spec.unit}."]
        if spec.remedy:
            lines += ["", f"**When it is bad.** {spec.remedy}"]
    return "\n".join(lines) + "\n"


def _families_table(teller: Teller) -> list[str]:
    return _table(
        ["name", "kind", "labels", "what it says"],
        (
            [
                f"[`{spec.name}`](#{spec.name})",
                spec.kind,
                ", ".join(f"`{label}`" for label in spec.labels),
                spec.meaning.partition(": ")[0].partition(". ")[0].removesuffix("."),
            ]
            for spec in (family.value for family in families(teller))
        ),
    )


def watchdogs_page() -> str:
    """Every watchdog of the monitor, in Markdown."""
    lines = [
        "# Watchdogs",
        "",
        f"{WRITTEN_BY} `monitors/fleet/watchdogs.py`.",
        "",
        "`headrace monitor` looks by the wall clock for what no worker tells of. What a watchdog finds is an",
        "[incident](records.md#incident) on the alerts topic, by the worker `monitor`: one when it opens, one when it",
        "is over. A monitor that restarts goes on from there and tells nothing twice.",
        "",
        "* Each has a bound in `[watchdogs]` of the [settings](settings.md#watchdogs), called *so long*, *so many* or",
        "  *so much* below; 0 switches it off.",
        "* Each partition is judged by itself, from its status records, and only while they come: of a silent",
        "  partition `worker-gone` is told, and all else stays as it was.",
        "* Nothing is judged in the first minute of a monitor, or after it was away from the brokers.",
        "* An incident closes when its condition has been clearly over for 30 s, so that none flaps.",
        "",
        *_table(
            ["name", "severity", "bound", "default"],
            (
                [
                    f"[`{spec.name}`](#{spec.name})",
                    spec.severity,
                    f"`{spec.bound}`",
                    f"`{_bound(spec.bound)}`",
                ]
                for spec in (watchdog.value for watchdog in Watchdog)
            ),
        ),
    ]
    for spec in (watchdog.value for watchdog in Watchdog):
        lines += ["", f"## {spec.name}", "", spec.meaning]
        lines += ["", f"**Over when.** {spec.over}", "", f"**What to do.** {spec.remedy}"]
    return "\n".join(lines) + "\n"


def _bound(name: str) -> str:
    return f"{getattr(Bounds(), name):g}" if name != "lag_records" else str(Bounds().lag_records)


def commands() -> list[list[str]]:
    """Every command as the words that follow `headrace`; a group stands before its own."""
    found: list[list[str]] = []

    def walk(command: Any, path: list[str]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            found.append([*path, name])
            walk(inner, [*path, name])

    walk(typer.main.get_command(app), [])
    return found


def _help(path: Sequence[str]) -> str:
    result = CliRunner().invoke(
        app, [*path, "--help"], prog_name="headrace", terminal_width=HELP_WIDTH, color=False
    )
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def _table(header: Sequence[str], rows: Iterator[list[str]] | list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _shown(value: object) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "learners.md": learners_page,
    "metrics.md": metrics_page,
    "detectors.md": detectors_page,
    "prometheus.md": prometheus_page,
    "watchdogs.md": watchdogs_page,
    "command-line.md": command_line_page,
}


def main(folder: Path) -> None:
    """Write all pages into a folder."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
