"""What the value of a setting may be, and how a section refuses one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo
from pydantic_core import PydanticCustomError

from stream.settings.words import Expected, Location, setting, shown

#: A location and what is wrong there, without the file and the line.
Problem = tuple[Location, str]


class Section(BaseModel):
    """A table of settings, frozen: unknown keys and wrong types are refused."""

    # A wrong type in the file is a mistake, not something to convert; pydantic's own errors show no value.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def problem(text: str) -> PydanticCustomError:
    """Return the error that says what is wrong with one value."""
    return PydanticCustomError("problem", "{text}", {"text": text})


def refuse(problems: Iterable[Problem]) -> None:
    """Raise all problems of a section as one error; their locations begin at the section."""
    found = list(problems)
    if found:
        text = " ".join(f"{setting(location)} {text}" for location, text in found)
        raise PydanticCustomError("problems", "{text}", {"text": text, "problems": found})


def _resolved(path: Path, info: ValidationInfo) -> Path:
    """Resolve a path from the settings file's folder, and see that there is a file."""
    folder = info.context["folder"] if info.context else Path()
    path = folder / path.expanduser()
    if not path.is_file():
        raise problem(f"is {shown(str(path))}; there is no such file.")
    return path


def secret_from_file(value: object, info: ValidationInfo) -> object:
    """Take a secret's text from the file that the setting `{name}_file` before it names, if it does."""
    name = f"{info.field_name}_file"
    path = info.data.get(name)
    if path is None:
        return value
    if value is not None:
        raise problem(f"and {name} are both given; expected one of them.")
    try:
        text: str = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise problem(f"can't be read from {name} ({path}): {why}.") from None
    if not text:
        raise problem(f"can't be read from {name} ({path}): it is empty.")
    return text


Task = Literal["binary", "multiclass", "regression"]
Text = Annotated[str, Field(min_length=1, max_length=1000), Expected("a text")]
# 128 characters: what a name in an event may have.
FieldName = Annotated[str, Field(min_length=1, max_length=128), Expected("the name of a field")]
FieldNames = Annotated[tuple[FieldName, ...], Field(strict=False), Expected("a list of names of fields")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number > 0")]
File = Annotated[Path, Field(strict=False), AfterValidator(_resolved), Expected("the path of a file")]
Secret = Annotated[SecretStr, Field(min_length=1), Expected("a text that is not empty")]
Parameters = Annotated[dict[str, Any], Expected("a table")]
#: Of something that logs, metrics and transactional ids name.
Name = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$"),
    Expected("1 to 100 of a-z, A-Z, 0-9, dot, underscore and hyphen, a letter or digit first"),
]
TopicName = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$"),
    Expected("the name of a Kafka topic (1 to 249 of a-z, A-Z, 0-9, dot, underscore and hyphen)"),
]


def whole(low: int, high: int | None = None) -> Expected:
    """Say that a setting is a whole number between two limits, both allowed."""
    return Expected(
        f"a whole number from {low} to {high}" if high is not None else f"a whole number >= {low}"
    )


def kinds(annotation: Any) -> set[Any]:
    """Return the plain types that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return kinds(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return set().union(*(kinds(arg) for arg in get_args(annotation)))
    return {origin or annotation}
