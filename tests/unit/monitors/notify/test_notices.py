from __future__ import annotations

import pytest

from monitors.notify.notices import Notice, harmless, line_of, when

GAP = "\u200b"


@pytest.mark.parametrize(
    ("text", "harmless_text"),
    [
        ("plain text", "plain text"),
        ("two\nlines\r\nand\ta tab", "two lines and a tab"),
        ("\x1b[31mred\x1b[0m\x00", "[31mred [0m"),
        ("right \u202eto left\u2066", "right to left"),
        ("half a pair \ud83d", "half a pair"),
        ("Grüße, 日本語, 🎉", "Grüße, 日本語, 🎉"),
        ("@channel", f"@{GAP}channel"),
        ("x@everyone", f"x@{GAP}everyone"),
        ("@HERE and @alice", f"@{GAP}HERE and @{GAP}alice"),
        ("me@example.org", "me@example.org"),
        ("me@everyone.example, x@123456", f"me@{GAP}everyone.example, x@{GAP}123456"),
        ("<!here>", f"<{GAP}!here>"),
        ("<@U123> <#C1> <@&7>", f"<{GAP}@{GAP}U123> <{GAP}#C1> <{GAP}@&7>"),
        ("<https://evil.example|your bank>", f"<{GAP}https://evil.example|your bank>"),
        ("[your bank](https://evil.example)", f"[your bank]{GAP}(https://evil.example)"),
        ("1 < 2 and a[0](x) stays readable", f"1 < 2 and a[0]{GAP}(x) stays readable"),
    ],
)
def test_a_text_of_an_event_is_one_line_that_calls_nobody(text: str, harmless_text: str) -> None:
    found = harmless(text)

    assert found == harmless_text
    found.encode()


def test_what_is_harmless_stays_so_when_it_is_made_harmless_again() -> None:
    once = harmless("@channel <!here> [a](b)")

    assert harmless(once) == once


def test_a_mention_is_not_hidden_by_other_invisible_characters() -> None:
    assert harmless("@\u200dchannel <\u202e!he\u00adre>") == f"@{GAP}channel <{GAP}!here>"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert harmless("x" * 10_000_000, most=10) == "xxxxxxxxx…"
    assert harmless("\n" * 10_000_000 + "x", most=10).endswith("…")
    assert harmless("x" * 10, most=10) == "xxxxxxxxxx"


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -1e300, 1e300])
def test_a_time_that_is_none_breaks_nothing(time: float) -> None:
    assert when(time) == "at an unknown time"


def test_a_line_says_what_where_and_when() -> None:
    notice = Notice(
        pipeline="payments",
        severity="warning",
        state="event",
        key="k",
        title="Drift",
        text="ADWIN on error.",
        time=1_764_000_000.0,
        topic="payments.alerts",
        partition=3,
        offset=1042,
    )

    assert line_of(notice, "[warning]") == (
        "[warning] payments: Drift: ADWIN on error. (2025-11-24 16:00:00 UTC, payments.alerts[3]@1042)"
    )


def test_every_part_of_a_line_is_made_harmless() -> None:
    evil = "@here\n<!channel>"
    notice = Notice(
        pipeline=evil, severity="info", state="event", key=evil, title=evil, text=evil, time=0.0, topic=evil
    )

    line = line_of(notice, "[info]")

    assert "\n" not in line
    assert "@here" not in line
    assert "<!" not in line


def test_a_position_can_be_copied_from_a_message() -> None:
    assert harmless("drift at payments[3]@1042") == "drift at payments[3]@1042"
