"""Notifications on their way to real HTTP and SMTP servers of this machine; no broker is needed."""

from __future__ import annotations

import asyncio
import email
import email.policy
import io
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import apprise
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, Session
from typer.testing import CliRunner

from monitors.notify import ChannelConfig, ChannelFacts, ChannelPolicy, Message, Notice, Notifier, State
from monitors.notify.notifier import Send
from monitors.notify.sender import Sender
from monitors.records import Severity
from stream.cli import app
from tests.helpers import free_port
from tests.integration.conftest import Web
from tests.support import PATIENCE

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("sockets_let_go")]

QUICK = ChannelPolicy(
    severity="info", group_seconds=0.0, retry_seconds=0.02, retry_most_seconds=0.05, at_most_per_hour=1_000
)
#: What an event could hold to call or to mislead people, or to break a mail apart.
HOSTILE = (
    "@channel @everyone <!here> <!subteam^S1> <https://evil.example|bank> [bank](https://evil.example)\r\n"
    "x@1234567890 a@here.example\r\nBcc: everyone@example.org\r\n\r\n"
    "<script>alert(1)</script> \x00\x1b[2J \u202etxt.exe \ud800 {{7*7}} &amp; \\"
)


class Mailbox:
    """A mail server that keeps what it is sent, and refuses the first so many mails."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.refuse = 0
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_DATA(self, server: object, session: Session, envelope: Envelope) -> str:
        if self.refuse:
            self.refuse -= 1
            return "451 try again later"
        content = envelope.content
        assert isinstance(content, bytes)
        mail = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"

    def authenticate(
        self, server: object, session: object, envelope: object, mechanism: str, data: Any
    ) -> Any:
        self.logins.append((data.login, data.password))
        return AuthResult(success=True)


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box, port = Mailbox(), free_port()
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        authenticator=box.authenticate,
        auth_require_tls=False,
        ready_timeout=PATIENCE,
    )
    controller.start()
    yield box, port
    controller.stop()


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged in this process, down to the lowest level."""
    root, text = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


def notice(offset: int = 0, severity: Severity = "warning", state: State = "event", **other: Any) -> Notice:
    values: dict[str, Any] = {
        "pipeline": "payments",
        "key": f"k{offset}",
        "title": f"notice {offset}",
        "text": "what to do.",
        "time": 0.0,
        "topic": "payments.alerts",
        "partition": 0,
        "offset": offset,
    }
    return Notice(severity=severity, state=state, **(values | other))


def impatient_with(hanging: Web, reasons: list[str | None]) -> Callable[[ChannelConfig], Send]:
    """Half a second for this service as long as it hangs, and the reasons that gives; for all else what it takes."""

    def sender(config: ChannelConfig) -> Send:
        impatient, patient = Sender(config.url, timeout_seconds=0.5), Sender(config.url, timeout_seconds=60.0)

        async def send(message: Message) -> str | None:
            if not hanging.answers or f":{hanging.server_port}/" not in config.url:
                return await patient.send(message)
            reasons.append(await impatient.send(message))
            return reasons[-1]

        return send

    return sender


@asynccontextmanager
async def running(
    *channels: ChannelConfig, sender: Callable[[ChannelConfig], Send] | None = None
) -> AsyncIterator[Notifier]:
    notifier = Notifier(channels) if sender is None else Notifier(channels, sender=sender)
    task = asyncio.create_task(notifier.run())
    yield notifier
    notifier.stop()
    async with asyncio.timeout(20):
        await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def facts_of(notifier: Notifier, name: str) -> ChannelFacts:
    return next(facts for facts in notifier.facts() if facts.name == name)


def test_a_webhook_gets_title_text_and_severity_and_the_notice_is_settled(web: Web) -> None:
    async def scenario() -> None:
        async with running(ChannelConfig(name="webhook", url=web.url(), policy=QUICK)) as notifier:
            notifier.offer(notice(7, severity="critical", state="open", key="lag"))
            await until(lambda: notifier.settled() == {("payments.alerts", 0): 8})
            notifier.offer(notice(8, severity="critical", state="closed", key="lag"))
            await until(lambda: notifier.settled() == {("payments.alerts", 0): 9})

    asyncio.run(scenario())

    opened, closed = web.bodies
    assert opened["title"] == "[critical] payments: notice 7"
    assert opened["message"] == (
        "[critical] open: payments: notice 7: what to do. (1970-01-01 00:00:00 UTC, payments.alerts[0]@7)"
    )
    assert (opened["type"], closed["type"]) == ("failure", "success")
    assert closed["title"] == "[closed] payments: notice 8"


def test_a_service_that_fails_for_a_while_gets_everything_in_the_end_and_no_secret_is_told(
    web: Web, logged: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    web.answers = [500, 503, 429, 302, 400]
    errors: list[str] = []

    async def scenario() -> None:
        async with running(ChannelConfig(name="webhook", url=web.url(), policy=QUICK)) as notifier:
            for offset in range(10):
                notifier.offer(notice(offset))
            while facts_of(notifier, "webhook").sent == 0:
                error = facts_of(notifier, "webhook").last_error
                if error is not None and error not in errors:
                    errors.append(error)
                await asyncio.sleep(0.001)
            facts = facts_of(notifier, "webhook")
            assert (facts.sent, facts.failed, facts.waiting, facts.last_error) == (1, 5, 0, None)
            assert notifier.settled() == {("payments.alerts", 0): 10}

    asyncio.run(scenario())

    assert set(errors) <= {f"the service answered {status}" for status in (500, 503, 429, 302, 400)}
    assert errors
    assert all(f"notice {offset}" in web.bodies[0]["message"] for offset in range(10))
    told = logged.getvalue() + "".join(capfd.readouterr())
    assert "s3cret" not in told
    assert "the service answered 500" in told


def test_a_service_that_is_not_there_is_tried_until_it_is(web: Web) -> None:
    port = free_port()

    async def scenario() -> None:
        channel = ChannelConfig(name="webhook", url=f"json://127.0.0.1:{port}", policy=QUICK)
        async with running(channel) as notifier:
            notifier.offer(notice())
            await until(lambda: facts_of(notifier, "webhook").failed >= 2)
            assert facts_of(notifier, "webhook").last_error == "no connection, or it was cut or refused"
            assert notifier.settled() == {("payments.alerts", 0): 0}

    asyncio.run(scenario())


def test_a_service_that_hangs_is_given_up_tried_again_and_delays_no_other(web: Web) -> None:
    web.answers = [0] * 1_000
    reasons: list[str | None] = []

    async def scenario() -> None:
        with Web() as other:
            thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            channels = [
                ChannelConfig(name="hangs", url=web.url(), policy=QUICK),
                ChannelConfig(name="works", url=other.url(), policy=QUICK),
            ]
            async with running(*channels, sender=impatient_with(web, reasons)) as notifier:
                for offset in range(5):
                    notifier.offer(notice(offset))
                    await until(lambda offset=offset: facts_of(notifier, "works").sent == offset + 1)  # type: ignore[misc]
                assert facts_of(notifier, "hangs").sent == 0
                await until(lambda: facts_of(notifier, "hangs").failed >= 2)
                assert reasons[:2] == ["no answer within 0.5 seconds"] * 2
                assert facts_of(notifier, "hangs").last_error in reasons
                assert notifier.settled() == {("payments.alerts", 0): 0}
                web.answers = []
                await until(lambda: notifier.settled() == {("payments.alerts", 0): 5})
            other.shutdown()
            thread.join()

    asyncio.run(scenario())

    assert sum("notice 4" in body["message"] for body in web.bodies) == 1


def test_what_was_not_delivered_before_a_crash_is_told_after_it(web: Web) -> None:
    """The caller reads again from what was settled; what was delivered before may be told twice."""
    web.answers = [200, *[500] * 1_000]
    log = [notice(offset) for offset in range(6)]

    async def first_life() -> int:
        notifier = Notifier([ChannelConfig(name="webhook", url=web.url(), policy=QUICK)])
        task = asyncio.create_task(notifier.run())
        for item in log[:2]:
            notifier.offer(item)
        await until(lambda: notifier.settled()["payments.alerts", 0] == 2)
        for item in log[2:5]:
            notifier.offer(item)
        await until(lambda: facts_of(notifier, "webhook").failed >= 2)
        committed = notifier.settled()["payments.alerts", 0]
        task.cancel()
        return committed

    async def second_life(committed: int) -> None:
        async with running(ChannelConfig(name="webhook", url=web.url(), policy=QUICK)) as notifier:
            for item in log[committed:]:
                notifier.offer(item)
            await until(lambda: notifier.settled()["payments.alerts", 0] == 6)

    committed = asyncio.run(first_life())
    web.answers = []
    asyncio.run(second_life(committed))

    assert committed == 2
    told = "\n".join(body["message"] for body in web.bodies)
    assert all(f"notice {offset}:" in told for offset in range(6))


def test_hostile_strings_call_nobody_and_reach_a_webhook_as_text(web: Web) -> None:
    async def scenario() -> None:
        async with running(ChannelConfig(name="webhook", url=web.url(), policy=QUICK)) as notifier:
            notifier.offer(notice(0, title=HOSTILE, text=HOSTILE, pipeline=HOSTILE))
            await until(lambda: facts_of(notifier, "webhook").sent == 1)

    asyncio.run(scenario())

    (body,) = web.bodies
    for text in (body["title"], body["message"]):
        assert "\n" not in text
        assert not any(
            call in text for call in ("@channel", "@everyone", "<!", "<https", "](", "\x00", "\x1b", "\u202e")
        )
    assert "<script>alert(1)</script>" in body["message"], "the text itself is not changed"


def test_hostile_strings_are_escaped_where_a_service_is_sent_html(web: Web) -> None:
    async def scenario() -> None:
        channel = ChannelConfig(name="webhook", url=web.url("?format=html"), policy=QUICK)
        async with running(channel) as notifier:
            notifier.offer(notice(0, text=HOSTILE))
            await until(lambda: facts_of(notifier, "webhook").sent == 1)

    asyncio.run(scenario())

    assert "<script" not in web.bodies[0]["message"]
    assert "&lt;script&gt;" in web.bodies[0]["message"]


def test_a_long_message_is_split_where_a_service_takes_little(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would refuse it again and again otherwise."""
    monkeypatch.setattr(apprise.plugins.N_MGR["json"], "body_maxlen", 2_000)  # as Discord's

    async def scenario() -> None:
        notifier = Notifier([ChannelConfig(name="webhook", url=web.url(), policy=QUICK)])
        for offset in range(20):
            notifier.offer(notice(offset, title=f"{offset:03d} " + "t" * 500, text="x" * 1_000))
        task = asyncio.create_task(notifier.run())
        await until(lambda: facts_of(notifier, "webhook").sent == 1)
        notifier.stop()
        await task

    asyncio.run(scenario())

    told = "\n".join(body["message"] for body in web.bodies)
    assert all(f": {offset:03d} ttt" in told for offset in range(20))
    assert len(web.bodies) > 5
    assert all(len(body["message"]) <= 2_000 for body in web.bodies)


@pytest.mark.parametrize(
    ("service", "attribute", "url"),
    [
        ("slack", "webhook_url", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general"),
        (
            "slack",
            "webhook_url",
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general?format=markdown",
        ),
        ("slack", "webhook_url", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general?blocks=yes"),
        ("discord", "notify_url", "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js"),
        ("discord", "notify_url", "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js?format=markdown"),
    ],
)
def test_hostile_strings_call_nobody_in_a_chat(
    web: Web, monkeypatch: pytest.MonkeyPatch, service: str, attribute: str, url: str
) -> None:
    """What Apprise makes of them for this service, sent to this machine instead."""
    monkeypatch.setattr(apprise.plugins.N_MGR[service], attribute, f"http://127.0.0.1:{web.server_port}")

    async def scenario() -> None:
        async with running(ChannelConfig(name="chat", url=url, policy=QUICK)) as notifier:
            notifier.offer(notice(0, title=HOSTILE, text=HOSTILE, pipeline=HOSTILE))
            await until(lambda: facts_of(notifier, "chat").sent == 1)

    asyncio.run(scenario())

    (body,) = web.bodies
    told = json.dumps(body, ensure_ascii=False)
    assert "channel" in told
    for call in ("@channel", "@everyone", "<!here", "<!subteam", "<https://evil", "](https://evil"):
        assert call not in told
    # "0" is the offset of the notice, "example" a part of an address: Discord has no such user and no such group.
    mentions = body.get("allow_mentions", {"parse": [], "users": [], "roles": []})
    assert set(mentions["parse"]) <= {"example"}
    assert set(mentions["users"]) <= {"0"}
    assert mentions["roles"] == []


def test_a_mail_has_the_title_as_its_subject_and_goes_to_those_it_is_for(
    mailbox: tuple[Mailbox, int],
) -> None:
    box, port = mailbox
    url = f"mailto://127.0.0.1:{port}?from=headrace@example.org&to=ops@example.org"

    async def scenario() -> None:
        async with running(ChannelConfig(name="mail", url=url, policy=QUICK)) as notifier:
            notifier.offer(notice(0))
            await until(lambda: notifier.settled() == {("payments.alerts", 0): 1})

    asyncio.run(scenario())

    assert box.mails[0]["Subject"] == "[warning] payments: notice 0"
    assert box.recipients == [["ops@example.org"]]
    assert box.logins == []


def test_a_mail_server_that_refuses_for_a_while_gets_the_mail_in_the_end_with_a_login(
    mailbox: tuple[Mailbox, int], logged: io.StringIO
) -> None:
    box, port = mailbox
    box.refuse = 2
    url = f"mailto://me:s3cret@127.0.0.1:{port}?from=headrace@example.org&to=ops@example.org"

    async def scenario() -> None:
        async with running(ChannelConfig(name="mail", url=url, policy=QUICK)) as notifier:
            notifier.offer(notice(0))
            await until(lambda: facts_of(notifier, "mail").sent == 1)
            assert facts_of(notifier, "mail").failed == 2

    asyncio.run(scenario())

    assert len(box.mails) == 1
    assert box.logins[-1] == (b"me", b"s3cret")
    assert "s3cret" not in logged.getvalue()


def test_hostile_strings_add_no_header_and_no_recipient_to_a_mail(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    url = f"mailto://127.0.0.1:{port}?from=headrace@example.org&to=ops@example.org"

    async def scenario() -> None:
        async with running(ChannelConfig(name="mail", url=url, policy=QUICK)) as notifier:
            notifier.offer(notice(0, title=HOSTILE, text=HOSTILE, pipeline=HOSTILE))
            await until(lambda: facts_of(notifier, "mail").sent == 1)

    asyncio.run(scenario())

    (mail,) = box.mails
    assert box.recipients == [["ops@example.org"]]
    assert mail["Bcc"] is None
    for part in mail.walk():
        if part.get_content_type() == "text/html":
            assert "<script" not in part.get_content()


def test_the_command_sends_a_test_message_to_each_channel(
    web: Web, mailbox: tuple[Mailbox, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, port = mailbox
    monkeypatch.setenv("WEBHOOK_URL", web.url())
    (tmp_path / "mail").write_text(
        f"mailto://127.0.0.1:{port}?from=headrace@example.org&to=ops@example.org\n"
    )
    settings = tmp_path / "fraud.toml"
    settings.write_text(
        'name = "fraud"\ntask = "binary"\n[topics]\nevents = "payments"\n[learner]\nuse = "logistic-regression"\n'
        '[[notifications]]\nname = "webhook"\nurl_env = "WEBHOOK_URL"\n'
        '[[notifications]]\nname = "mail"\nurl_file = "mail"\n'
    )

    works = CliRunner().invoke(app, ["notify-test", str(settings)])
    web.answers = [500]
    fails = CliRunner().invoke(app, ["notify-test", str(settings)])

    assert (works.exit_code, works.output) == (0, "sent    webhook\nsent    mail\n")
    assert fails.exit_code == 3
    assert fails.output == "failed  webhook: the service answered 500.\nsent    mail\n"
    assert web.bodies[0]["title"] == box.mails[0]["Subject"] == "[test] fraud: a test message"
