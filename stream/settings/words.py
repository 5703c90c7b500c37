"""How settings, their values and what they may be are put in words, in the reference as in every mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

#: Where a setting is: `("metrics", "window")`, `("drift", 1, "detector")`.
Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a setting may be, in words: the second half of "is -5; expected a number > 0"."""

    words: str


def expected(field: FieldInfo) -> str:
    """Say in words what a setting may be."""
    own = [item.words for item in field.metadata if isinstance(item, Expected)]
    return own[-1] if own else _words(field.annotation)


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        own = [item.words for item in metadata if isinstance(item, Expected)]
        return own[-1] if own else _words(inner)
    if origin in {Union, UnionType}:
        return " or ".join(_words(arg) for arg in get_args(annotation) if arg is not NoneType)
    if origin is Literal:
        return "one of " + ", ".join(f'"{arg}"' for arg in get_args(annotation))
    return "a table"


def shown(value: object) -> str:
    """Write a value as TOML would, cut to a length that fits a line."""
    match value:
        case bool() | None:
            text = json.dumps(value)
        case str():
            text = json.dumps(value, ensure_ascii=False)
        case date():
            text = value.isoformat()
        case list():
            text = f"[{', '.join(shown(item) for item in value[:10])}{', ...' if len(value) > 10 else ''}]"
        case dict():
            text = "a table"
        case _:
            try:
                text = str(value)
            except ValueError:  # an integer of thousands of digits
                text = "a huge number"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 100 else f"{text[:97]}..."


def hint_at(word: str, valid: Iterable[str]) -> str:
    """Say which of the valid words was meant, or name them all."""
    valid = list(valid)
    near = get_close_matches(word, valid, n=1)
    return f'did you mean "{near[0]}"?' if near else f"expected one of {', '.join(valid)}."


#: Sections of which there may be several.
LISTS = ("drift", "notifications")


def header(section: str) -> str:
    """Write the name of a section as the file has it: `[labels]`, `[[drift]]`."""
    return f"[[{section}]]" if section in LISTS else f"[{section}]"


def setting(location: Location) -> str:
    """Write a setting as the file has it: `[labels] expire_after_seconds`."""
    names = [key if isinstance(key, int) or re.fullmatch(r"[\w.-]+", key) else shown(key) for key in location]
    match names:
        case [str(section), int(i), *rest] if section in LISTS:
            return " ".join([f"{header(section)} number {i + 1}", *map(str, rest)])
        case [str(name)]:
            return name
        case [str(section), *rest]:
            return f"{header(section)} {'.'.join(map(str, rest))}"
    return ""
