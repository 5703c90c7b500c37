from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from stream.build import open_keeper, snapshot_folder
from stream.checkpoint import state_shape
from stream.errors import ConfigError
from stream.settings import Settings, load_settings
from stream.snapshots.key import FILE

MINIMAL = """\
name = "fraud"
task = "binary"
[topics]
events = "payments"
[learner]
use = "logistic-regression"
"""
KEY = "0123456789abcdef-never-to-be-shown-0123456789abcdef"


def load(folder: Path, text: str = "", environ: Mapping[str, str] | None = None) -> Settings:
    path = folder / "app.toml"
    path.write_text(MINIMAL + text, encoding="utf-8")
    return load_settings(path, environ or {})


def mistake(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        load(folder, text, environ)
    return str(raised.value).replace(f"{folder}{os.sep}", "")


def test_snapshots_are_on_without_a_word_and_lie_beside_the_settings(tmp_path: Path) -> None:
    settings = load(tmp_path)

    assert settings.snapshots.enabled
    assert snapshot_folder(settings) == tmp_path / ".headrace" / "snapshots"
    assert (settings.snapshots.interval_seconds, settings.snapshots.keep) == (10.0, 3)
    assert settings.snapshots.key is None


@pytest.mark.parametrize(
    ("location", "folder"),
    [
        ("kept", "{}/kept"),
        ("../kept", "{}/../kept"),
        ("/var/kept", "/var/kept"),
        ("file:///var/kept", "/var/kept"),
    ],
)
def test_a_location_is_relative_to_the_settings_file(tmp_path: Path, location: str, folder: str) -> None:
    settings = load(tmp_path, f'[snapshots]\nlocation = "{location}"\n')

    assert not settings.snapshots.is_remote
    assert snapshot_folder(settings) == Path(folder.format(tmp_path))


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    settings = load(tmp_path, '[snapshots]\nlocation = "~/kept"\n')

    assert snapshot_folder(settings) == Path("/home/someone/kept")


def test_two_pipelines_at_one_location_have_a_folder_each_and_one_key(tmp_path: Path) -> None:
    keeper = open_keeper(load(tmp_path))

    assert keeper.store.address == str(tmp_path / ".headrace" / "snapshots" / "fraud")
    assert (tmp_path / ".headrace" / "snapshots" / FILE).stat().st_mode & 0o777 == 0o600


def test_an_address_without_a_key_is_a_mistake_that_says_how_to_make_one(tmp_path: Path) -> None:
    text = mistake(tmp_path, '[snapshots]\nlocation = "s3://bucket/prefix"\n')

    assert "[snapshots] key is missing; an address needs one, the same for each worker" in text
    assert "HEADRACE_SNAPSHOTS__KEY" in text
    assert "secrets.token_hex(32)" in text


def test_an_address_without_a_key_is_none_while_snapshots_are_off(tmp_path: Path) -> None:
    settings = load(tmp_path, '[snapshots]\nlocation = "s3://bucket/prefix"\nenabled = false\n')

    assert settings.snapshots.is_remote


@pytest.mark.parametrize("way", ["environment", "file", "settings"])
def test_a_key_is_read_and_never_shown(tmp_path: Path, way: str) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    text = '[snapshots]\nlocation = "s3://bucket/prefix"\n'
    text += {"file": 'key_file = "key"\n', "settings": f'key = "{KEY}"\n'}.get(way, "")
    environ = {"HEADRACE_SNAPSHOTS__KEY": KEY} if way == "environment" else {}

    settings = load(tmp_path, text, environ)

    assert settings.snapshots.key is not None
    assert settings.snapshots.key.get_secret_value() == KEY
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert KEY not in shown


def test_a_key_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)

    text = mistake(tmp_path, f'[snapshots]\nkey_file = "key"\nkey = "{KEY}"\n')

    assert "and key_file are both given; expected one of them." in text
    assert KEY not in text


def test_a_short_key_is_a_mistake_and_is_not_shown(tmp_path: Path) -> None:
    text = mistake(tmp_path, '[snapshots]\nkey = "hunter2"\n')

    assert "expected a text of at least 32 characters" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("interval_seconds = 0", "interval_seconds is 0; expected a number > 0"),
        ("interval_events = 0", "interval_events is 0; expected a whole number >= 1"),
        ("keep = 1", "keep is 1; expected a whole number from 2 to 1000"),
        ("max_bytes = 10", "max_bytes is 10; expected a whole number >= 1000"),
        ('location = ""', "location is"),
        ("options = { anon = true }", "options is for an address; location is a directory: leave it out."),
    ],
)
def test_a_value_that_makes_no_sense_is_a_mistake(tmp_path: Path, line: str, said: str) -> None:
    assert said in mistake(tmp_path, f"[snapshots]\n{line}\n")


def test_where_and_how_often_snapshots_are_kept_shapes_no_state(tmp_path: Path) -> None:
    """Or to move them would mean to learn everything again."""
    settings = load(tmp_path)
    other = load(tmp_path, f'[snapshots]\nlocation = "other"\nkeep = 9\nkey = "{KEY}"\nenabled = false\n')

    assert state_shape(settings) == state_shape(other)
