from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import apprise
import pytest

from monitors.notify import Message, sender
from monitors.notify.sender import Sender, problems, scheme_of, send, service_name

MESSAGE = Message(title="t", body="b", severity="warning", is_over=False, notices=1)
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("json://127.0.0.1/path", "JSON"),
        (SLACK, "Slack"),
        (f"  {SLACK}\n", "Slack"),
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "Slack"),
        ("mailto://user:pass@127.0.0.1:2525?from=me@example.com&to=you@example.com", "E-Mail"),
        ("pagerduty://A1BRTD4JD@TIiajkdnlazkcOXrIdevi7FQ", "Pager Duty"),
    ],
)
def test_an_address_that_apprise_knows_has_no_problems(url: str, service: str) -> None:
    assert problems(url) == []
    assert service_name(url) == service


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3cret", "is no address; expected one such as"),
        ("", "is no address; expected one such as"),
        ("slak://s3cret", 'begins with "slak://", which Apprise does not know; did you mean "slack://"?'),
        ("https://example.org/s3cret", 'for a webhook of your own write "jsons://host/path".'),
        ("http://example.org/s3cret", 'for a webhook of your own write "json://host/path".'),
        ("slack://s3cret", 'is not as Apprise needs it for "slack://"; see http'),
        ("json://", 'is not as Apprise needs it for "json://"'),
        ("x" * 500 + "://s3cret", "is no address"),
    ],
)
def test_an_address_that_can_not_be_used_is_told_without_its_secret(url: str, said: str) -> None:
    (problem,) = problems(url)

    assert said in problem
    assert "s3cret" not in problem
    assert service_name(url) is None
    assert send(url, MESSAGE) == f"the address {problem}"


def test_a_service_that_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apprise.plugins.N_MGR["mqtt"], "enabled", False)

    (problem,) = problems("mqtt://host/topic")

    assert problem.startswith('begins with "mqtt://", for which a package is missing: pip install "paho-mqtt')


def test_a_scheme_is_no_secret_and_nothing_else_is_shown() -> None:
    assert scheme_of(SLACK) == "slack"
    assert scheme_of("JSONS://host") == "jsons"
    assert scheme_of("no address://") is None


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that reaches the handlers of this process, down to the lowest level."""
    root, text = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


def test_an_error_of_a_service_is_told_without_its_text(
    monkeypatch: pytest.MonkeyPatch, logged: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    def crash(*args: object, **kwargs: object) -> bool:
        raise RuntimeError("could not reach https://example.org/s3cret")

    monkeypatch.setattr(apprise.plugins.N_MGR["json"], "send", crash)

    assert send("json://host/s3cret", MESSAGE) == "the service did not take it"
    assert "s3cret" not in logged.getvalue()
    assert "s3cret" not in "".join(capfd.readouterr())


def test_nothing_is_logged_of_an_address(logged: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    assert send("json://me:s3cret@127.0.0.1:1/s3cret?x=s3cret", MESSAGE) is not None
    assert problems("json://:s3cret") != []

    assert "s3cret" not in logged.getvalue()
    assert "s3cret" not in "".join(capfd.readouterr())


def test_an_error_of_apprise_is_told_by_its_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: apprise.Apprise, **kwargs: object) -> None:
        raise ValueError("json://host/s3cret")

    monkeypatch.setattr(apprise.Apprise, "notify", broken)

    assert send("json://host/s3cret", MESSAGE) == "it failed with ValueError"


@pytest.mark.parametrize(
    ("is_over", "severity", "kind"),
    [
        (False, "info", "info"),
        (False, "warning", "warning"),
        (False, "critical", "failure"),
        (True, "critical", "success"),
    ],
)
def test_the_severity_decides_on_the_kind_and_the_text_is_text(
    monkeypatch: pytest.MonkeyPatch, is_over: bool, severity: str, kind: str
) -> None:
    calls: list[dict[str, object]] = []

    def notify(self: apprise.Apprise, **arguments: object) -> bool:
        calls.append(arguments)
        return True

    monkeypatch.setattr(apprise.Apprise, "notify", notify)
    message = Message(title="t", body="b", severity=severity, is_over=is_over, notices=1)  # type: ignore[arg-type]

    assert send("json://host", message) is None
    assert calls[0]["notify_type"] == apprise.NotifyType(kind)
    assert calls[0]["body_format"] == apprise.NotifyFormat.TEXT


def test_an_address_can_not_call_its_failures_successes() -> None:
    assert send("json://127.0.0.1:1/?optional=yes", MESSAGE) == "no connection, or it was cut or refused"


def test_what_hangs_is_given_up_and_leaks_a_few_threads_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(url: str, message: Message) -> str | None:
        release.wait(10)
        return None

    monkeypatch.setattr(sender, "send", hang)

    async def scenario() -> list[str | None]:
        to = Sender("json://host", timeout_seconds=0.01)
        reasons = [await to.send(MESSAGE) for _ in range(sender.MOST_HANGING + 2)]
        release.set()
        for thread in to._threads:
            thread.join()
        monkeypatch.setattr(sender, "send", lambda url, message: None)
        to._timeout_seconds = 30.0
        return [*reasons, await to.send(MESSAGE)]

    assert asyncio.run(scenario()) == [
        *["no answer within 0.01 seconds"] * sender.MOST_HANGING,
        *[f"{sender.MOST_HANGING} earlier attempts still hang"] * 2,
        None,
    ]


def test_an_answer_after_the_loop_is_closed_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)

    def late(url: str, message: Message) -> None:
        release.wait(10)

    monkeypatch.setattr(sender, "send", late)
    to = Sender("json://host", timeout_seconds=0.01)
    asyncio.run(to.send(MESSAGE))

    release.set()
    for thread in to._threads:
        thread.join()

    assert errors == []


def test_apprise_is_not_imported_before_something_is_sent() -> None:
    code = "import sys, monitors.notify, stream.settings; sys.exit('apprise' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_machine_without_room_for_a_thread_fails_the_attempt_and_not_the_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    assert asyncio.run(Sender("json://127.0.0.1").send(MESSAGE)) == "this machine refused a thread"
