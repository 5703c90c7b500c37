from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest

from stream.checkpoint import state_shape
from stream.errors import ConfigError
from stream.settings import Settings, load_settings, read_addresses

MINIMAL = """\
name = "fraud"
task = "binary"
[topics]
events = "payments"
[learner]
use = "logistic-regression"
"""
URL = "json://me:s3cret@127.0.0.1/s3cret"


def load(folder: Path, text: str = "", environ: Mapping[str, str] | None = None) -> Settings:
    path = folder / "app.toml"
    path.write_text(MINIMAL + text, encoding="utf-8")
    return load_settings(path, environ or {})


def mistakes(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(folder, text, environ)
    told = "".join(traceback.format_exception(raised.value))
    assert "s3cret" not in told
    return str(raised.value).replace(f"{folder}{os.sep}", "").splitlines()


def unreadable(settings: Settings, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_addresses(settings, environ or {})
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))
    return str(raised.value).replace(f"{settings.folder}{os.sep}", "").splitlines()


def test_nobody_is_told_anything_by_default(tmp_path: Path) -> None:
    settings = load(tmp_path)

    assert settings.notifications == ()
    assert read_addresses(settings, {}) == ()


def test_a_channel_needs_an_address_and_all_else_has_a_default(tmp_path: Path) -> None:
    settings = load(tmp_path, f'[[notifications]]\nurl = "{URL}"\n[[notifications]]\nurl_env = "MAIL_URL"\n')

    first, second = settings.notifications
    assert (first.severity, first.group_seconds, first.at_most_per_hour) == ("warning", 30.0, 20)
    assert first.reminder_seconds == 14_400.0
    assert (first.name_at(0), second.name_at(1)) == ("channel-1", "channel-2")


def test_addresses_come_from_settings_files_and_environment_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "chat").write_text("slack://from/a/file\n")
    settings = load(
        tmp_path,
        '[[notifications]]\nurl_env = "MAIL_URL"\n'
        f'[[notifications]]\nurl = "{URL}"\n'
        '[[notifications]]\nurl_file = "chat"\n',
    )

    assert read_addresses(settings, {"MAIL_URL": "mailto://from/environment"}) == (
        "mailto://from/environment",
        URL,
        "slack://from/a/file",
    )


def test_all_channels_may_come_from_the_environment(tmp_path: Path) -> None:
    environ = {"HEADRACE_NOTIFICATIONS": f'[{{"name": "ops", "url": "{URL}", "severity": "critical"}}]'}

    settings = load(tmp_path, environ=environ)

    assert [item.name for item in settings.notifications] == ["ops"]
    assert read_addresses(settings, environ) == (URL,)


def test_a_worker_starts_without_the_secrets_that_only_the_monitor_needs(tmp_path: Path) -> None:
    settings = load(
        tmp_path, '[[notifications]]\nurl_env = "NOT_SET"\n[[notifications]]\nurl_file = "not-there"\n'
    )

    assert len(settings.notifications) == 2


def test_every_address_that_can_not_be_read_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    files = ["not-there", "empty", "latin", ".", "slack://s3cret", "a\\u0000b"]
    text = '[[notifications]]\nname = "a"\nurl_env = "NOT_SET"\n' + "".join(
        f'[[notifications]]\nurl_file = "{name}"\n' for name in files
    )

    assert unreadable(load(tmp_path, text)) == [
        "app.toml:9: [[notifications]] number 1 url_env can't be read: there is no such variable, or it is empty.",
        "app.toml:11: [[notifications]] number 2 url_file can't be read: No such file or directory.",
        "app.toml:13: [[notifications]] number 3 url_file can't be read: it is empty.",
        "app.toml:15: [[notifications]] number 4 url_file can't be read: it is not UTF-8.",
        "app.toml:17: [[notifications]] number 5 url_file can't be read: Is a directory.",
        "app.toml:19: [[notifications]] number 6 url_file can't be read: No such file or directory.",
        "app.toml:21: [[notifications]] number 7 url_file can't be read: this is no path.",
    ]


def test_an_address_of_the_environment_that_can_not_be_read_names_the_variable(tmp_path: Path) -> None:
    environ = {"HEADRACE_NOTIFICATIONS": '[{"url_env": "NOT_SET"}]'}

    (mistake,) = unreadable(load(tmp_path, environ=environ), environ)

    assert mistake.startswith("HEADRACE_NOTIFICATIONS: [[notifications]] number 1 url_env can't be read:")


def test_a_file_that_is_gone_since_costs_the_line_and_nothing_else(tmp_path: Path) -> None:
    settings = load(tmp_path, '[[notifications]]\nurl_env = "NOT_SET"\n')
    settings.path.unlink()

    (mistake,) = unreadable(settings)

    assert mistake.startswith("app.toml: [[notifications]] number 1 url_env can't be read:")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('severity = "warn"', 'severity is "warn"; expected one of "info", "warning", "critical"'),
        ("group_seconds = -1", "group_seconds is -1; expected a number from 0 to 86400."),
        ("group_seconds = inf", "group_seconds is inf; expected a number from 0 to 86400."),
        ("at_most_per_hour = 0", "at_most_per_hour is 0; expected a whole number from 1 to 3600."),
        ("reminder_seconds = nan", "reminder_seconds is nan; expected a number >= 0."),
        ('name = "a b"', 'name is "a b"; expected 1 to 100 of'),
        ('severty = "info"', "severty is not a setting; did you mean severity?"),
        ('url_file = "chat"', "url_file and url are both given; expected one of url, url_file, url_env."),
        (
            'url_env = "json://s3cret"',
            "url_env is wrong (its value is not shown here); expected the name of an environment variable.",
        ),
        (
            'url_file = ["s3cret"]',
            "url_file is wrong (its value is not shown here); expected the path of a file.",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_a_mistake(tmp_path: Path, line: str, said: str) -> None:
    (mistake,) = mistakes(tmp_path, f'[[notifications]]\nurl = "{URL}"\n{line}\n')

    assert mistake.startswith(f"app.toml:9: [[notifications]] number 1 {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[[notifications]]\n",
            "app.toml:7: [[notifications]] number 1 url is missing; expected an address, or",
        ),
        ('[[notifications]]\nurl = ["s3cret"]\n', "url is wrong (its value is not shown here)"),
        ('[[notifications]]\nurl = ""\n', "url is wrong (its value is not shown here)"),
        (
            '[[notifications]]\nurl_env = "HEADRACE_CHAT"\n',
            "url_env begins with HEADRACE_, as the variables of",
        ),
        (
            '[notifications]\nurl = "s3cret"\n',
            "[[notifications]] is no list of tables; write [[notifications]], with two brackets.",
        ),
        (
            '[[notification]]\nurl = "s3cret"\n',
            "notification is not a setting; did you mean [[notifications]]?",
        ),
        (
            '[snapshots]\nurl = "s3cret"\n',
            "[snapshots] url is not a setting here; it belongs in [[notifications]].",
        ),
    ],
)
def test_a_table_that_makes_no_sense_is_a_mistake_that_shows_no_secret(
    tmp_path: Path, text: str, said: str
) -> None:
    (mistake,) = mistakes(tmp_path, text)

    assert said in mistake


@pytest.mark.parametrize("value", ['"json://s3cret"', '["json://s3cret"]', "1"])
def test_what_stands_in_place_of_the_tables_is_not_shown(tmp_path: Path, value: str) -> None:
    (tmp_path / "app.toml").write_text(f"notifications = {value}\n{MINIMAL}")

    with pytest.raises(ConfigError) as raised:
        load_settings(tmp_path / "app.toml", {})

    assert "s3cret" not in str(raised.value)
    assert "[[notifications]]" in str(raised.value)


def test_a_wrong_variable_of_all_channels_shows_no_secret(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, "", {"HEADRACE_NOTIFICATIONS": "json://s3cret"})

    assert mistake == (
        "HEADRACE_NOTIFICATIONS: [[notifications]] is no list of tables; expected tables [[notifications]]."
    )


def test_two_channels_of_one_name_are_refused_also_if_one_has_it_by_its_place(tmp_path: Path) -> None:
    text = (
        '[[notifications]]\nname = "channel-2"\nurl_env = "A"\n'
        '[[notifications]]\nurl_env = "B"\n'
        '[[notifications]]\nname = "channel-2"\nurl_env = "C"\n'
    )

    assert mistakes(tmp_path, text) == [
        'app.toml:10: [[notifications]] number 2 name is "channel-2", as that of number 1 is; expected another one.',
        'app.toml:13: [[notifications]] number 3 name is "channel-2", as that of number 1 is; expected another one.',
    ]


def test_mistakes_of_channels_are_told_beside_those_of_other_sections(tmp_path: Path) -> None:
    text = '[labels]\ncapacity = 0\n[[notifications]]\nname = "a"\nurl_env = "A"\n' + (
        '[[notifications]]\nname = "a"\nurl_env = "B"\n'
    )

    assert [mistake.partition(" ")[0] for mistake in mistakes(tmp_path, text)] == [
        "app.toml:8:",
        "app.toml:13:",
    ]


def test_no_text_of_the_settings_shows_an_address(tmp_path: Path) -> None:
    settings = load(tmp_path, f'[[notifications]]\nurl = "{URL}"\n')

    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "s3cret" not in shown


def test_whom_to_tell_shapes_no_state(tmp_path: Path) -> None:
    before = state_shape(load(tmp_path))

    assert state_shape(load(tmp_path, f'[[notifications]]\nurl = "{URL}"\n')) == before
