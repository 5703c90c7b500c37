from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitors.notify import ChannelPolicy, Message, sender
from stream import notifications as module
from stream.cli import app
from stream.errors import ConfigError, EnvironmentRefused
from stream.notifications import channels_of
from stream.settings import Settings, load_settings
from stream.tools.check import notification_items

MINIMAL = """\
name = "fraud"
task = "binary"
[topics]
events = "payments"
[learner]
use = "logistic-regression"
"""
TWO = """\
[[notifications]]
name = "webhook"
url_env = "WEBHOOK_URL"
severity = "critical"
group_seconds = 5
at_most_per_hour = 7
reminder_seconds = 0
[[notifications]]
url = "slack://s3cret"
"""
WEBHOOK = {"WEBHOOK_URL": "json://me:s3cret@127.0.0.1/path"}
GOOD = TWO.replace("slack://s3cret", "json://s3cret@127.0.0.1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "app.toml"


def load(file: Path, text: str) -> Settings:
    file.write_text(MINIMAL + text)
    return load_settings(file, {})


def test_settings_and_secrets_become_plain_values(file: Path) -> None:
    first, second = channels_of(load(file, GOOD), WEBHOOK)

    assert (first.name, first.url) == ("webhook", WEBHOOK["WEBHOOK_URL"])
    assert first.policy == ChannelPolicy(
        severity="critical", group_seconds=5.0, at_most_per_hour=7, reminder_seconds=0.0
    )
    assert (second.name, second.policy) == ("channel-2", ChannelPolicy())


def test_the_defaults_of_the_settings_are_those_of_the_policy(file: Path) -> None:
    (channel,) = channels_of(load(file, '[[notifications]]\nurl = "json://host"\n'))

    assert channel.policy == ChannelPolicy()


def test_an_address_that_apprise_can_not_use_is_a_mistake_with_its_line_and_without_its_secret(
    file: Path,
) -> None:
    with pytest.raises(ConfigError) as raised:
        channels_of(load(file, TWO), WEBHOOK | {"WEBHOOK_URL": "https://s3cret"})

    first, second = raised.value.mistakes
    assert str(first).startswith(f'{file}:9: [[notifications]] number 1 url_env begins with "https://"')
    assert str(second).startswith(f"{file}:15: [[notifications]] number 2 url is not as Apprise needs it")
    assert "s3cret" not in str(raised.value)


def test_addresses_that_can_not_be_read_are_told_with_those_that_can_not_be_used(file: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        channels_of(load(file, TWO), {})

    assert [str(mistake).partition(" [[")[0] for mistake in raised.value.mistakes] == [
        f"{file}:9:",
        f"{file}:15:",
    ]


def test_without_channels_apprise_is_not_needed_and_with_them_its_absence_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    assert channels_of(load(file, "")) == []
    with pytest.raises(EnvironmentRefused, match=r"pip install 'headrace\[monitor\]'"):
        channels_of(load(file, GOOD), WEBHOOK)


# --- headrace check --------------------------------------------------------------------------------------


def test_check_has_a_line_for_each_channel(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_URL", WEBHOOK["WEBHOOK_URL"])

    items = list(notification_items(load(file, GOOD)))

    assert [(item.item, item.state) for item in items] == [
        ("notifications to webhook", "ok"),
        ("notifications to channel-2", "ok"),
    ]
    assert items[0].text.startswith("JSON, least severity critical; collects 5 s, at most 7 messages an hour")
    assert "reminds never" in items[0].text
    assert "reminds every 14400 s" in items[1].text
    assert "s3cret" not in str(items)


def test_check_tells_what_is_wrong_with_each_address(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_URL", raising=False)

    first, second = notification_items(load(file, TWO))

    assert first.state == second.state == "failed"
    assert "number 1 url_env can't be read" in first.text
    assert "number 2 url is not as Apprise needs it" in second.text
    assert "a worker needs no address" in first.remedy


def test_check_skips_channels_where_apprise_is_not_installed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    (item,) = notification_items(load(file, GOOD))

    assert (item.state, item.text) == ("ok", "skipped: pip install 'headrace[monitor]'")


# --- headrace notify-test --------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Message]:
    """Messages by their address; one that says "broken" fails."""
    found: dict[str, Message] = {}

    def send(url: str, message: Message) -> str | None:
        found[url] = message
        return "the service answered 500" if "broken" in url else None

    monkeypatch.setattr(sender, "send", send)
    return found


def test_a_test_message_is_sent_to_each_channel(
    file: Path, sent: dict[str, Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_URL", WEBHOOK["WEBHOOK_URL"])
    load(file, GOOD)

    result = CliRunner().invoke(app, ["notify-test", str(file)])

    assert result.exit_code == 0
    assert result.output.splitlines() == ["sent    webhook", "sent    channel-2"]
    message = sent[WEBHOOK["WEBHOOK_URL"]]
    assert message.title == "[test] fraud: a test message"
    assert "Channel webhook of pipeline fraud works. It tells what is at least critical." in message.body


def test_a_channel_that_does_not_take_it_is_told_and_fails_the_command(
    file: Path, sent: dict[str, Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_URL", "json://broken/s3cret")
    load(file, GOOD)

    plain = CliRunner().invoke(app, ["notify-test", str(file)])
    as_json = CliRunner().invoke(app, ["notify-test", str(file), "--json"])

    assert plain.exit_code == as_json.exit_code == 3
    assert plain.output.splitlines() == ["failed  webhook: the service answered 500.", "sent    channel-2"]
    assert json.loads(as_json.output) == [
        {"name": "webhook", "ok": False, "reason": "the service answered 500"},
        {"name": "channel-2", "ok": True, "reason": ""},
    ]
    assert "s3cret" not in plain.output + as_json.output


def test_settings_without_a_channel_are_a_mistake_for_it(file: Path, sent: dict[str, Message]) -> None:
    load(file, "")

    result = CliRunner().invoke(app, ["notify-test", str(file)])

    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(f"{file}: [[notifications]] is missing; expected a table")
    assert sent == {}


def test_importing_the_channels_imports_neither_apprise_nor_river() -> None:
    import subprocess

    code = "import sys, stream.notifications; sys.exit(bool({'apprise', 'river'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
