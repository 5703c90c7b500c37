"""Mistakes of a settings file: each with the line or the variable it came from, and what was expected."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from stream.errors import Mistake
from stream.settings.notifications import NEAR_A_SECRET
from stream.settings.tree import Settings, section_of
from stream.settings.values import Problem, Section, kinds
from stream.settings.words import LISTS, Location, expected, header, setting, shown


def problems_of(error: ValidationError, raw: Mapping[str, Any]) -> list[Problem]:
    """Say what pydantic found in our words, once for each setting."""
    problems: dict[Location, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        location, field = _locate(item["loc"])
        if item["type"] == "problems":
            for inner, text in item["ctx"]["problems"]:
                problems.setdefault((*location, *inner), text)
        elif item["type"] == "problem":
            problems.setdefault(location, item["ctx"]["text"])
        elif field is None:
            problems.setdefault(location, _unknown(location, isinstance(_value_at(raw, location), dict)))
        elif item["type"] == "missing":
            problems.setdefault(location, f"is missing; expected {expected(field)}.")
        else:
            problems.setdefault(location, _wrong(location, field, _value_at(raw, location)))
    return list(problems.items())


def _locate(location: Location) -> tuple[Location, FieldInfo | None]:
    """Cut what pydantic adds to a location (items of lists, branches of unions); None: no such setting."""
    model: type[Section] | None = Settings
    field: FieldInfo | None = None
    for i, key in enumerate(location):
        if model is None:
            return location[:i], field
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key)
        if field is None:
            return location[: i + 1], None
        model = section_of(field)
    return location, field


def _value_at(raw: Any, location: Location) -> object:
    for key in location:
        raw = raw[key]
    return raw


def _wrong(location: Location, field: FieldInfo, value: object) -> str:
    if len(location) == 1 and location[0] in LISTS:
        name = header(str(location[0]))
        hint = f"write {name}, with two brackets" if isinstance(value, dict) else f"expected tables {name}"
        # An address of [[notifications]] is a secret.
        return f"is {shown(value)}; {hint}." if name == "[[drift]]" else f"is no list of tables; {hint}."
    if section_of(field) is not None:
        # The value is not shown: a section may hold a password, and so may what stands in its place.
        return "is not a table; expected a section of settings."
    words = expected(field)
    if SecretStr in kinds(field.annotation) or location[-1] in ("librdkafka", *NEAR_A_SECRET):
        return f"is wrong (its value is not shown here); expected {words}."
    near = get_close_matches(value, re.findall('"([^"]+)"', words), n=1) if isinstance(value, str) else []
    hint = f'; did you mean "{near[0]}"?' if near else "."
    return f"is {shown(value)}; expected {words}{hint}"


def _unknown(location: Location, is_table: bool) -> str:
    """Say where a key that is no setting belongs, or which one was meant."""
    key = str(location[-1])
    sections = {
        name: section for name, field in Settings.model_fields.items() if (section := section_of(field))
    }
    top = [name for name in Settings.model_fields if name not in sections]
    if len(location) == 1:
        here = list(sections) if is_table else top
    else:
        here = list(sections[str(location[0])].model_fields)
    if key in top and len(location) > 1:
        return "is not a setting of this section; it belongs at the top of the file, above the first section."
    owners = [
        name for name, section in sections.items() if key in section.model_fields and name not in location
    ]
    if owners and not is_table:
        return f"is not a setting here; it belongs in {' or '.join(header(name) for name in owners)}."
    near = get_close_matches(key, here, n=1) or get_close_matches(key, sections, n=1) * (len(location) == 1)
    if near:
        return f"is not a setting; did you mean {header(near[0]) if near[0] in sections else near[0]}?"
    return f"is not a setting; expected one of {', '.join(here)}."


def mistakes_of(
    problems: Iterable[Problem], path: Path, text: str, origins: Mapping[Location, str]
) -> list[Mistake]:
    """Return problems with their places, in the order of the file.

    Args:
        problems: What is wrong, and at which setting.
        path: The settings file.
        text: What is in it.
        origins: The variable of each setting that came from the environment.
    """
    lines = lines_of(text)
    return [
        Mistake(place=_place(path, location, lines, origins), setting=_name(location), text=words)
        for location, words in sorted(problems, key=lambda problem: _line(problem[0], lines))
    ]


def _name(location: Location) -> str:
    match location:
        case [str(name)] if (field := Settings.model_fields.get(name)) and section_of(field):
            return header(name)
    return setting(location)


def _place(
    path: Path, location: Location, lines: Mapping[Location, int], origins: Mapping[Location, str]
) -> str:
    """The variable or the line that a setting came from, or the nearest thing around it."""
    for end in range(len(location), 0, -1):
        if location[:end] in origins:
            return origins[location[:end]]
        if location[:end] in lines:
            return f"{path}:{lines[location[:end]]}"
    return str(path)


def lines_of(text: str) -> dict[Location, int]:
    """Find the line of each table and key of a TOML text that is known to be valid.

    The text is cut into its statements by asking `tomllib` where each one ends: it is complete as soon as it
    parses.

    Example:
        >>> lines_of('name = "a"\\n[[drift]]\\nwatch = "error"\\n[[drift]]\\ndetector = 1')[("drift", 1)]
        4
    """
    found: dict[Location, int] = {}
    table: Location = ()
    items: dict[Location, int] = {}
    statement, first = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not statement:
            first = number
        statement += f"{line}\n"
        # Nothing else ends a statement of several lines; not asking at each line keeps long lists quick.
        if first != number and not any(mark in line for mark in ("]", "}", '"""', "'''")):
            continue
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = ()
            while parsed:
                key, parsed = next(iter(parsed.items()))
                table = (*table, key)
                if isinstance(parsed, list):
                    items[table] = items.get(table, -1) + 1
                    parsed = parsed[0]
                if table in items:
                    table = (*table, items[table])
            found.setdefault(table, first)
        else:
            for location in _locations(parsed):
                found.setdefault((*table, *location), first)
        statement = ""
    return {_joined(location): line for location, line in found.items()}


def _locations(parsed: Mapping[str, object]) -> Iterator[Location]:
    for key, value in parsed.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *inner) for inner in _locations(value))


def _joined(location: Location) -> Location:
    """librdkafka's dotted keys are one key, also where TOML nests them."""
    if location[:2] == ("kafka", "librdkafka") and len(location) > 2:
        return (*location[:2], ".".join(map(str, location[2:])))
    return location


def _line(location: Location, lines: Mapping[Location, int]) -> int:
    found = (lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines)
    return next(found, 0)
