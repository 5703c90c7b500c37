"""Reading settings: the file, the environment over it, and every mistake at once.

No other module reads settings from `os.environ`: what a module needs to know is handed to it.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from monitors.drift import drift_problems
from monitors.prequential import metric_problems
from stream.errors import ConfigError, Mistake
from stream.settings.mistakes import mistakes_of, problems_of
from stream.settings.tree import (
    LearnerSettings,
    MetricSettings,
    Settings,
    conflicts,
    parts_of,
    section_of,
    with_defaults,
)
from stream.settings.values import Problem, Section, Task, kinds
from stream.settings.words import LISTS, Location

ENVIRONMENT_PREFIX = "HEADRACE_"
#: Variables with the prefix that are no settings: those of the tests, of `headrace broker` and of the monitor.
NOT_SETTINGS = ("HEADRACE_TEST_", "HEADRACE_BROKER_", "HEADRACE_CACHE", "HEADRACE_MONITOR_")


def load_settings(
    path: Path, environ: Mapping[str, str] | None = None, *, check_learner: bool = True
) -> Settings:
    """Read a pipeline's settings from its file, and from the environment over it.

    `HEADRACE_KAFKA__BOOTSTRAP_SERVERS` overrides `bootstrap_servers` of `[kafka]`, and so on; lists and
    tables are written as JSON; a variable that is empty counts as not set.

    Args:
        path: The TOML file.
        environ: The environment; by default that of this process.
        check_learner: Build the learner to see whether it fits. What neither learns nor reads the state of what does
            needs none of it, and starts without River and on a machine that lacks the user's own module.

    Raises:
        ConfigError: With every mistake at once: what is not as it must be, what does not go together, and a
            learner, metric or detector that does not fit the task.
    """
    path = Path(path)
    text = _read(path)
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of thousands of digits
        raise ConfigError([_syntax_mistake(path, error)]) from None

    origins, mistakes = _override(raw, os.environ if environ is None else environ)
    problems, parts, settings = _validated(raw, path.absolute().parent)
    if check_learner:
        problems += _learner_problems(parts, path.absolute().parent)
    problems += _monitor_problems(parts)

    if problems:
        mistakes += mistakes_of(problems, path, text, origins)
    if mistakes or settings is None:
        raise ConfigError(mistakes)
    settings._path = path
    return settings


def read_addresses(
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    problems_with: Callable[[str], Iterable[str]] = lambda address: (),
) -> tuple[str, ...]:
    """Read the secret addresses of `[[notifications]]`, in their order, from wherever each of them is.

    Not done when settings are loaded: a worker needs none of them, and should not have them.

    Args:
        settings: The settings.
        environ: The environment; by default that of this process.
        problems_with: Says what is wrong with an address, in the second halves of sentences.

    Raises:
        ConfigError: With each file that can't be read, variable that is not set and address that is wrong.
    """
    environ = os.environ if environ is None else environ
    addresses = []
    problems: list[Problem] = []
    for i, channel in enumerate(settings.notifications):
        text, why = "", "it is empty"
        if channel.url is not None:
            text = channel.url.get_secret_value()
        elif channel.url_env is not None:
            text, why = environ.get(channel.url_env, ""), "there is no such variable, or it is empty"
        elif channel.url_file is not None:
            try:
                text = (settings.folder / channel.url_file.expanduser()).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                why = "it is not UTF-8"
            except (OSError, ValueError, RuntimeError) as error:  # a null byte, no such home
                why = (error.strerror if isinstance(error, OSError) else None) or "this is no path"
        addresses.append(text.strip())
        if not addresses[-1]:
            # Neither path nor variable is shown: it may be the address itself, in the wrong place.
            told: Iterable[str] = [f"can't be read: {why}."]
        else:
            told = problems_with(addresses[-1])
        problems += [(("notifications", i, channel.source), sentence) for sentence in told]
    if problems:
        raise ConfigError(_notification_mistakes(settings, problems, environ))
    return tuple(addresses)


def _notification_mistakes(
    settings: Settings, problems: Iterable[Problem], environ: Mapping[str, str]
) -> list[Mistake]:
    variable = f"{ENVIRONMENT_PREFIX}NOTIFICATIONS"
    origins: dict[Location, str] = {("notifications",): variable} if environ.get(variable) else {}
    try:
        text = settings.path.read_text(encoding="utf-8-sig")
        tomllib.loads(text)
    except (OSError, ValueError):  # it is gone or changed since: places without lines
        text = ""
    return mistakes_of(problems, settings.path, text, origins)


def _read(path: Path) -> str:
    def wrong(text: str) -> ConfigError:
        return ConfigError([Mistake(place=str(path), setting="", text=text)])

    try:
        # A byte order mark, as Windows editors write it, is no mistake.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise wrong("there is no such file; `headrace init` writes one to begin with.") from None
    except IsADirectoryError:
        raise wrong("this is a folder; expected a settings file (TOML).") from None
    except UnicodeDecodeError as error:
        raise wrong(f"the file is not UTF-8 (byte {error.start + 1}); save it as UTF-8.") from None
    except OSError as error:
        raise wrong(f"the file can't be read: {error.strerror}.") from None


def _syntax_mistake(path: Path, error: Exception) -> Mistake:
    if isinstance(error, RecursionError):
        return Mistake(place=str(path), setting="", text="the file is nested too deeply.")
    match = re.fullmatch(r"(?s)(.*) \(at line (\d+), column (\d+)\)", str(error))
    if match is None:  # "at end of document"
        return Mistake(place=str(path), setting="", text=f"this is not TOML: {error}.")
    text, line, column = match.groups()
    return Mistake(place=f"{path}:{line}", setting="", text=f"this is not TOML at column {column}: {text}.")


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[Location, str], list[Mistake]]:
    """Put what the environment says over the file's; return what came from where, and the mistakes."""
    variables = environment_variables()
    origins: dict[Location, str] = {}
    mistakes = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(NOT_SETTINGS):
            continue
        found = variables.get(variable)
        if found is None:
            near = get_close_matches(variable.upper(), variables, n=1)
            hint = f"did you mean {near[0]}?" if near else "expected HEADRACE_SECTION__KEY."
            mistakes.append(
                Mistake(place=variable, setting="", text=f"this variable names no setting; {hint}")
            )
            continue
        if not text:
            continue
        location, field = found
        table = raw
        for key in location[:-1]:
            table = table.setdefault(str(key), {})
            if not isinstance(table, dict):
                break  # the file's own mistake, reported as such
        else:
            table[str(location[-1])] = _from_text(text, field)
            origins[location] = variable
    return origins, mistakes


def environment_variables() -> dict[str, tuple[Location, FieldInfo]]:
    """Return every environment variable that names a setting, where the setting is, and what it may be."""
    variables: dict[str, tuple[Location, FieldInfo]] = {}
    for name, field in Settings.model_fields.items():
        section = section_of(field)
        if section is None or name in LISTS:
            variables[f"{ENVIRONMENT_PREFIX}{name.upper()}"] = (name,), field
        else:
            for key, inner in section.model_fields.items():
                variables[f"{ENVIRONMENT_PREFIX}{name.upper()}__{key.upper()}"] = (name, key), inner
    return variables


def _from_text(text: str, field: FieldInfo) -> object:
    """Read a variable's text as what the setting may be; anything but text is written as JSON."""
    if not kinds(field.annotation) & {int, float, bool, tuple, dict}:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _validated(raw: dict[str, Any], folder: Path) -> tuple[list[Problem], dict[str, Any], Settings | None]:
    """Return the problems, the top-level settings that are well-formed, and without problems all settings."""
    raw = with_defaults(raw)
    context = {"folder": folder}
    try:
        settings = Settings.model_validate(raw, context=context)
    except ValidationError as error:
        problems = problems_of(error, raw)
    else:
        return [], parts_of(settings), settings

    wrong = {location[0] for location, _ in problems}
    parts: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        section = section_of(field)
        if section is None:
            if name not in wrong:
                parts[name] = raw[name]
        elif name in LISTS:
            items = raw[name] if isinstance(raw.get(name), list) else []
            valid = ((i, _section_or_none(section, item, context)) for i, item in enumerate(items))
            parts[name] = {i: item for i, item in valid if item is not None}
        else:
            part = _section_or_none(section, raw.get(name, {}), context)
            if part is not None:
                parts[name] = part
    problems += [problem for problem in conflicts(parts) if problem not in problems]
    return problems, parts, None


def _section_or_none(section: type[Section], raw: object, context: dict[str, Any]) -> Section | None:
    try:
        return section.model_validate(raw, context=context)
    except ValidationError:
        return None


def _learner_problems(parts: Mapping[str, Any], folder: Path) -> Iterator[Problem]:
    """What the package that learns refuses; `parts` holds the settings that are well-formed."""
    # Imported here: River takes a second to import, and who does not learn should not wait for it.
    from learners.errors import LearnerError  # noqa: PLC0415
    from learners.registry import build_learner, learner_names, load_learner  # noqa: PLC0415

    task: Task | None = parts.get("task")
    learner: LearnerSettings | None = parts.get("learner")
    if learner is not None and learner.build is not None:
        try:
            load_learner(learner.build, learner.parameters, folder, task=task)
        except LearnerError as error:
            yield ("learner", "build"), f": {error}"
    if learner is not None and learner.use is not None and task is not None:
        key = "parameters" if learner.use in learner_names(task) else "use"
        try:
            build_learner(learner.use, task, learner.parameters, learner.seed)
        except LearnerError as error:
            yield ("learner", key), f": {error}"


def _monitor_problems(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """What the package that watches refuses; `parts` holds the settings that are well-formed."""
    task: Task | None = parts.get("task")
    metrics: MetricSettings | None = parts.get("metrics")
    if task is None:
        return
    if metrics is not None:
        for problem in metric_problems(metrics.use, task):
            yield ("metrics", "use"), f": {problem}"
    for i, item in parts["drift"].items():
        for problem in drift_problems(item.watch, item.detector, item.parameters, task):
            yield ("drift", i), f": {problem}"
