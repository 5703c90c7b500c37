"""Figures, ages and strange text, as people read them. Pure."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Final

from monitors import records

#: Longest text that is shown in one place; the rest is cut, and said to be.
MOST_CHARACTERS: Final = 300
#: Categories of characters that can't be seen, or that change how others are seen.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: More accents on one letter than any language needs.
_MOST_ACCENTS: Final = 4

NOTHING: Final = "–"


def plain(text: object, most: int = MOST_CHARACTERS) -> str:
    """Text that somebody else wrote, with nothing hidden in it.

    Control characters, marks that turn the direction of reading and characters of no width are named. Long text is
    cut.

    Example:
        >>> plain("pay\\u202eexe.fdp\\x00")
        'pay‹202E›exe.fdp‹0000›'
        >>> plain("abcdef", most=4)
        'abc…'
    """
    found = str(text)
    cut = found if len(found) <= most else found[: most - 1]
    shown = []
    accents = 0
    for character in cut:
        category = unicodedata.category(character)
        accents = accents + 1 if category in ("Mn", "Me") else 0
        if category in _UNSEEN:
            shown.append(f"‹{ord(character):04X}›")
        elif accents <= _MOST_ACCENTS:
            shown.append(character)
    return "".join(shown) + ("…" if len(cut) < len(found) else "")


def number(value: float | None, digits: int = 4) -> str:
    """A figure with so many digits that count.

    Example:
        >>> number(0.912345), number(12345.678), number(1e-7), number(None), number(3.0)
        ('0.9123', '12,346', '1e-07', '–', '3')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) >= 1e9 or abs(value) < 1e-4:
        return f"{value:.{digits - 1}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text


def signed(value: float) -> str:
    """A difference: `+0.31`, `−0.05`."""
    return ("+" if value >= 0 else "−") + number(abs(value), 3)


def changed(before: float | None, after: float | None) -> str:
    """How a mean changed: `+0.33 (+412 %)`; nothing if one of the two is not known.

    Example:
        >>> changed(0.1, 0.41), changed(0.0, 0.2), changed(2.0, 2.0)
        ('+0.31 (+310 %)', '+0.2', 'unchanged')
    """
    if before is None or after is None:
        return ""
    difference = after - before
    if abs(difference) <= 1e-9 * max(abs(before), abs(after)):
        return "unchanged"
    return signed(difference) + (f" ({signed(100 * difference / abs(before))} %)" if before else "")


def count(value: float | None) -> str:
    """A whole number: `12,345`, and `12.3 M` where the last digits say nothing."""
    if value is None:
        return NOTHING
    if abs(value) >= 1e7:
        for limit, name in ((1e9, "G"), (1e6, "M")):
            if abs(value) >= limit:
                return f"{number(value / limit, 3)} {name}"
    return f"{value:,.0f}"


def many(value: float, one: str, more: str | None = None) -> str:
    """A number with its noun: `1 record`, `3 records`."""
    return f"{count(value)} {one if value == 1 else more or one + 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers, those that follow each other as one, with the dash that print has.

    Example:
        >>> ranges([7, 0, 2, 1, 3])
        '0–3, 7'
    """
    return records.ranges(numbers, to="–")


def per_second(value: float | None) -> str:
    """A rate, without its unit: one decimal below 100."""
    if value is None:
        return NOTHING
    return f"{value:,.1f}" if 0 < value < 100 and not float(value).is_integer() else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """A time span.

    Example:
        >>> [seconds(span) for span in (0.0000123, 0.85, 3.4, 90, 7_800, 300_000)]
        ['12.3 μs', '850 ms', '3.4 s', '90 s', '2 h 10 min', '3 d 11 h']
    """
    if value is None:
        return NOTHING
    if value == 0:
        return "0 s"
    if value < 1e-3:
        return f"{number(value * 1e6, 3)} μs"
    if value < 1:
        return f"{number(value * 1e3, 3)} ms"
    if value < 120:
        return f"{value:.0f} s" if value >= 10 or float(value).is_integer() else f"{value:.1f} s"
    minutes = round(value / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def size(value: float | None) -> str:
    """Bytes: `21.0 KiB`."""
    if value is None:
        return NOTHING
    for limit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= limit:
            return f"{number(value / limit, 3)} {name}"
    return f"{value:,.0f} B"


def share(value: float | None) -> str:
    """A share as per cent: `97.3 %`."""
    if value is None:
        return NOTHING
    percent = 100 * value
    return "100 %" if value == 1 else f"{percent:.1f} %" if percent < 99.95 else f"{percent:.2f} %"


def title(name: str) -> str:
    """The name of a metric or baseline, for people.

    Example:
        >>> title("roc_auc"), title("no_change"), title("balanced_accuracy"), title("mae")
        ('ROC AUC', 'no-change', 'Balanced accuracy', 'MAE')
    """
    if name in ("no_change", "majority", "mean"):
        return name.replace("_", "-")
    if name in ("roc_auc", "mae", "mse", "rmse", "mape", "smape", "mcc"):
        return name.upper().replace("_", " ").replace("SMAPE", "sMAPE")
    if name == "r2":
        return "R²"
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def against(
    value: float | None, other: float | None, name: str, *, higher_is_better: bool
) -> tuple[str, str]:
    """A figure held against a baseline's, in words, and whether that is good, bad or neither.

    Example:
        >>> against(0.9, 0.6, "no_change", higher_is_better=True)
        ('+0.3 over no-change', 'good')
        >>> against(0.9, 0.6, "mean", higher_is_better=False)
        ('0.3 worse than mean', 'bad')
    """
    if value is None or other is None:
        return "", "calm"
    difference = value - other if higher_is_better else other - value
    if abs(difference) < 1e-12:
        return f"level with {title(name)}", "calm"
    amount = number(abs(difference), 2)
    if difference < 0:
        return f"{amount} worse than {title(name)}", "bad"
    return (f"+{amount} over" if higher_is_better else f"{amount} better than") + f" {title(name)}", "good"
