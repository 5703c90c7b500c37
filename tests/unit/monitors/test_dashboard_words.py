"""What the dashboard writes and which colours it writes it in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitors.app import dashboard
from monitors.app.dashboard.view import View
from monitors.app.dashboard.words import (
    against,
    changed,
    count,
    number,
    per_second,
    plain,
    seconds,
    share,
    size,
)

STYLE = (Path(dashboard.__file__).parent / "dashboard.css").read_text()
#: What is written on what.
PAIRS = [
    (text, ground)
    for ground in ("page", "surface", "sunk")
    for text in ("text", "muted", "accent", "good", "warn", "bad")
] + [
    ("on-accent", "accent"),
    *((tone, f"{tone}-ground") for tone in ("good", "warn", "bad", "info", "calm")),
    *(("text", f"{tone}-ground") for tone in ("good", "warn", "bad", "info", "calm")),
]
#: Lines and signs, which need less.
LINES = [(f"line-{name}", "surface") for name in ("main", "second", "third", "base", "base2")]


def palettes() -> dict[str, dict[str, str]]:
    """The colours by name, of light, of dark by choice and of dark by the system."""
    blocks = re.findall(r"(:root[^{]*)\{([^}]*)\}", STYLE)
    names = ("light", "dark by choice", "dark by the system")
    assert len(blocks) == len(names)
    return {
        name: dict(re.findall(r"--hr-([a-z0-9-]+): (#[0-9a-f]{6});", block))
        for name, (_, block) in zip(names, blocks, strict=True)
    }


def contrast(one: str, other: str) -> float:
    """As WCAG 2 computes it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", ["light", "dark by choice", "dark by the system"])
def test_every_text_has_the_contrast_that_wcag_aa_asks_for(name: str) -> None:
    colours = palettes()[name]

    found = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in PAIRS}
    lines = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in LINES}

    assert {pair: round(ratio, 2) for pair, ratio in found.items() if ratio < 4.5} == {}
    assert {pair: round(ratio, 2) for pair, ratio in lines.items() if ratio < 3.0} == {}


def test_both_ways_into_the_dark_are_the_same_dark() -> None:
    found = palettes()

    assert found["dark by choice"] == found["dark by the system"]
    assert found["dark by choice"].keys() == found["light"].keys()


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"),  # text stays text: it is never HTML
        ("a\x00b\x1b[31m\x7f", "a‹0000›b‹001B›[31m‹007F›"),
        ("\u202eexe.txt\u2066\u200b\ufeff", "‹202E›exe.txt‹2066›‹200B›‹FEFF›"),
        ("line\nbreak\u2028", "line‹000A›break‹2028›"),
        ("\ud800 \ue000", "‹D800› ‹E000›"),
        ("e" + "\u0301" * 50, "e" + "\u0301" * 4),
        ("Größe 日本 🙂", "Größe 日本 🙂"),
    ],
)
def test_nothing_is_hidden_in_a_text(hostile: str, shown: str) -> None:
    assert plain(hostile) == shown


def test_long_text_is_cut_and_says_so() -> None:
    assert plain("x" * 1_000, most=10) == "xxxxxxxxx…"
    assert plain("x" * 10, most=10) == "x" * 10
    assert len(plain("\x00" * 1_000, most=10)) == 9 * 6 + 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.5, "0.5"),
        (0.08, "0.08"),
        (-12.3456, "-12.35"),
        (1_234_567.0, "1,234,567"),
        (2.5e-9, "2.5e-09"),
        (3e12, "3e+12"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (None, "–"),
    ],
)
def test_figures_have_the_digits_that_count(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_amounts_have_units_that_fit() -> None:
    assert [count(v) for v in (None, 0, 999_999, 12_345_678, 3_400_000_000)] == [
        "–",
        "0",
        "999,999",
        "12.3 M",
        "3.4 G",
    ]
    assert [per_second(v) for v in (None, 0.0, 12.34, 1_234.5)] == ["–", "0", "12.3", "1,234"]
    assert [size(v) for v in (None, 12, 21_500, 3 << 20)] == ["–", "12 B", "21 KiB", "3 MiB"]
    assert [share(v) for v in (None, 1.0, 0.9996, 0.5)] == ["–", "100 %", "99.96 %", "50.0 %"]
    assert [seconds(v) for v in (None, 0.0, 59.9, 3_600.0)] == ["–", "0 s", "60 s", "1 h"]


def test_a_figure_is_held_against_a_baseline_in_words() -> None:
    assert against(0.5, 0.6, "majority", higher_is_better=True) == ("0.1 worse than majority", "bad")
    assert against(1.0, 3.5, "no_change", higher_is_better=False) == ("2.5 better than no-change", "good")
    assert against(0.5, 0.5, "mean", higher_is_better=True) == ("level with mean", "calm")
    assert against(None, 0.5, "mean", higher_is_better=True) == ("", "calm")


def test_a_change_that_is_rounding_is_none() -> None:
    assert changed(29.16, 29.160000000000004) == "unchanged"
    assert changed(-2.0, -1.0) == "+1 (+50 %)"
    assert changed(None, 1.0) == ""


@pytest.mark.parametrize(
    "view",
    [
        View(),
        View(tab="alerts", range="7d", partition=12, metric="roc_auc"),
        View(kinds=("drift", "incident"), severities=("critical",), text="a&b=c #ü", in_range=True),
    ],
)
def test_an_address_brings_back_what_was_chosen(view: View) -> None:
    from urllib.parse import parse_qsl

    assert View.of(dict(parse_qsl(view.query().removeprefix("?")))) == view


@pytest.mark.parametrize(
    "query",
    [
        {
            "tab": "<script>",
            "range": "9y",
            "partition": "-1",
            "metric": "A B",
            "kind": "x,y",
            "severity": "worst",
        },
        {"partition": "٣"},
        {"partition": "99999999999999999999"},
    ],
)
def test_an_address_that_makes_no_sense_shows_the_usual(query: dict[str, str]) -> None:
    assert View.of(query) == View()
