import json
import os
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from stream.errors import ConfigError
from stream.reference import settings_page
from stream.settings import AllBut, Settings, environment_variables, example_settings, load_settings
from stream.settings.mistakes import lines_of

MINIMAL = """\
name = "fraud"
task = "binary"
[topics]
events = "payments"
[learner]
use = "logistic-regression"
"""

Load = Callable[..., Settings]
Mistakes = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str, environ: Mapping[str, str] | None = None) -> Settings:
        path = tmp_path / "app.toml"
        path.write_text(text, encoding="utf-8")
        return load_settings(path, environ or {})

    return load


@pytest.fixture
def mistakes(load: Load, tmp_path: Path) -> Mistakes:
    """What is reported, a line each, without the path of the temporary folder."""

    def mistakes(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as raised:
            load(text, environ)
        return str(raised.value).replace(f"{tmp_path}{os.sep}", "").splitlines()

    return mistakes


# --- Defaults and values ---------------------------------------------------------------------------------


def test_a_short_file_is_enough_and_topics_are_named_after_the_pipeline(load: Load) -> None:
    settings = load(MINIMAL)

    assert settings.topics.predictions == "fraud.predictions"
    assert settings.topics.alerts == "fraud.alerts"
    assert settings.topics.dead_letters == "fraud.dead-letters"
    assert settings.topics.status == "fraud.status"
    assert settings.topics.outcomes is None
    assert settings.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert settings.worker.delivery == "exactly_once"
    assert settings.drift == ()


@pytest.mark.parametrize(
    ("task", "learner", "metrics"),
    [
        ("binary", "logistic-regression", ("accuracy", "roc_auc")),
        ("multiclass", "softmax-regression", ("accuracy", "macro_f1")),
        ("regression", "linear-regression", ("mae", "rmse")),
    ],
)
def test_default_metrics_fit_the_task(load: Load, task: str, learner: str, metrics: tuple[str, ...]) -> None:
    settings = load(MINIMAL.replace("binary", task).replace("logistic-regression", learner))

    assert settings.metrics.use == metrics


@pytest.mark.parametrize(
    ("written", "features"),
    [
        ('"payload"', "payload"),
        ('["amount", "country"]', ("amount", "country")),
        ('{ except = ["note"] }', AllBut.model_validate({"except": ["note"]})),
    ],
)
def test_features_are_one_field_or_a_list_or_all_but_some(load: Load, written: str, features: object) -> None:
    assert load(f"{MINIMAL}[event]\nfeatures = {written}\n").event.features == features


@pytest.mark.parametrize(("written", "positive"), [('"yes"', "yes"), ("1", 1), ("true", True), ('"1"', "1")])
def test_the_positive_value_keeps_its_type(load: Load, written: str, positive: object) -> None:
    found = load(f"{MINIMAL}[event]\npositive = {written}\n").event.positive

    assert found == positive
    assert type(found) is type(positive)


@pytest.mark.parametrize(
    "written", ['"2026-01-31T00:00:00Z"', "2026-01-31T00:00:00Z", "2026-01-31T01:00:00+01:00"]
)
def test_start_may_be_a_time_as_text_or_as_toml_has_it(load: Load, written: str) -> None:
    text = MINIMAL.replace('events = "payments"', f'events = "payments"\nstart = {written}')

    assert load(text).topics.start == datetime(2026, 1, 31, tzinfo=UTC)


def test_a_whole_number_is_taken_where_a_number_with_a_fraction_is_expected(load: Load) -> None:
    assert load(f"{MINIMAL}[labels]\nexpire_after_seconds = 60\n").labels.expire_after_seconds == 60.0


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())

    assert load_settings(path, {}).name == "fraud"


def test_settings_know_their_folder_and_survive_the_way_to_another_process(
    load: Load, tmp_path: Path
) -> None:
    settings = load(MINIMAL)

    assert settings.folder == tmp_path
    assert pickle.loads(pickle.dumps(settings)).folder == tmp_path


def test_settings_can_not_be_changed(load: Load) -> None:
    settings = load(MINIMAL)

    with pytest.raises(ValidationError):
        settings.name = "other"  # type: ignore[misc]  # the point of the test

    assert settings.name == "fraud"


# --- Mistakes in the file --------------------------------------------------------------------------------


def test_every_mistake_is_reported_at_once_with_its_line(mistakes: Mistakes) -> None:
    text = """\
nam = "Payments"
task = "binaryy"

[topics]
evnts = "payments"
[event]
features = ["amount",
  3]
[labels]
expire_after_seconds = -5
[learner]
use = "hoeffding-tree"
window = 500
[[drift]]
watch = "error"
detector = "adwin"
[[drift]]
detector = 5
"""

    assert mistakes(text) == [
        "app.toml: name is missing; expected 1 to 100 of a-z, 0-9, dot, underscore and hyphen, a letter or digit"
        " first.",
        "app.toml:1: nam is not a setting; did you mean name?",
        'app.toml:2: task is "binaryy"; expected one of "binary", "multiclass", "regression";'
        ' did you mean "binary"?',
        "app.toml:4: [topics] events is missing; expected the name of a Kafka topic (1 to 249 of a-z, A-Z, 0-9,"
        " dot, underscore and hyphen).",
        "app.toml:5: [topics] evnts is not a setting; did you mean events?",
        'app.toml:7: [event] features is ["amount", 3]; expected the name of one field, a list of names, or'
        " { except = [names] }.",
        "app.toml:10: [labels] expire_after_seconds is -5; expected a number > 0.",
        "app.toml:13: [learner] window is not a setting here; it belongs in [metrics].",
        'app.toml:17: [[drift]] number 2 watch is missing; expected "error", "label", "label:CLASS",'
        ' "label_delay", "prediction" or "feature:NAME".',
        "app.toml:18: [[drift]] number 2 detector is 5; expected the name of a detector.",
    ]


@pytest.mark.parametrize(
    ("added", "reported"),
    [
        ("[labels]\ncapacity = 0", "[labels] capacity is 0; expected a whole number >= 1."),
        ('[labels]\ncapacity = "7"', '[labels] capacity is "7"; expected a whole number >= 1.'),
        ("[labels]\ncapacity = true", "[labels] capacity is true; expected a whole number >= 1."),
        (
            "[labels]\nexpire_after_seconds = inf",
            "[labels] expire_after_seconds is inf; expected a number > 0.",
        ),
        ("[metrics]\nwindow = 9", "[metrics] window is 9; expected a whole number from 10 to 10000."),
        ("[metrics]\nuse = []", "[metrics] use is []; expected a list of names of metrics."),
        ('[metrics]\nuse = "f1"', '[metrics] use is "f1"; expected a list of names of metrics.'),
        (
            "[event]\npositive = 1.5",
            "[event] positive is 1.5; expected a text, a whole number, true or false.",
        ),
        ('[event]\nlabel = ""', '[event] label is ""; expected the name of a field.'),
        ('[event]\nid = "label"', '[event] label is "label", as id is; expected another field.'),
        (
            '[event]\nfeatures = ["a", "label"]',
            '[event] features holds the label, "label": the learner would see the answer; leave it out.',
        ),
        ('[event]\nfeatures = ["a", "b", "a"]', '[event] features names "a" twice; expected it once.'),
        ("[event]\nfeatures = []", "[event] features is empty; expected at least one field."),
        ('[metric]\nuse = ["f1"]', "metric is not a setting; did you mean [metrics]?"),
        (
            '[worker]\ntask = "binary"',
            "[worker] task is not a setting of this section; it belongs at the top of",
        ),
        (
            '[worker]\ndelivery = "exactly-once"',
            '[worker] delivery is "exactly-once"; expected one of "exactly_once", "at_least_once";'
            ' did you mean "exactly_once"?',
        ),
        (
            "[worker]\ncommit_interval_ms = 9000",
            "[worker] commit_interval_ms is 9000; expected at most half of",
        ),
        ('[worker]\ninstance = "a b"', '[worker] instance is "a b"; expected 1 to 100 of'),
        ("[metrics]\nwindow = nan", "[metrics] window is nan; expected a whole number from 10 to 10000."),
        ("[drift]\nwatch = 1", "[[drift]] is a table; write [[drift]], with two brackets."),
        (
            "[kafka]\nbootstrap_servers = 'localhost'",
            '[kafka] bootstrap_servers is "localhost"; expected host:port',
        ),
        ("[kafka]\nca_file = 'no.pem'", 'no.pem"; there is no such file.'),
    ],
)
def test_a_wrong_value_is_told_with_what_was_expected(mistakes: Mistakes, added: str, reported: str) -> None:
    found = mistakes(MINIMAL + added)

    assert len(found) == 1
    assert re.match(r"app\.toml:\d+: ", found[0])
    assert reported in found[0]


@pytest.mark.parametrize(
    ("old", "new", "reported"),
    [
        ('name = "fraud"', 'name = "Fraud"', 'app.toml:1: name is "Fraud"; expected 1 to 100 of a-z'),
        (
            'events = "payments"',
            'events = "payments"\nstart = "erliest"',
            'app.toml:5: [topics] start is "erliest"; expected "earliest", "latest" or a time such as'
            ' "2026-01-31T00:00:00Z"; did you mean "earliest"?',
        ),
        (
            'events = "payments"',
            'events = "payments"\nstart = 2026-01-31T00:00:00',
            "app.toml:5: [topics] start is 2026-01-31T00:00:00, a time without a zone; end it with Z",
        ),
        (
            'events = "payments"',
            'events = "payments"\nalerts = "fraud.predictions"',
            'app.toml:5: [topics] alerts is "fraud.predictions", which is taken by predictions;',
        ),
        (
            'events = "payments"',
            'events = "fraud_alerts"',
            'app.toml:3: [topics] alerts is "fraud.alerts", which is taken by events;',
        ),
        (
            'use = "logistic-regression"',
            "",
            'app.toml:5: [learner] use is missing; expected the name of a learner (or build = "module:function").',
        ),
        (
            'use = "logistic-regression"',
            'use = "logistic-regression"\nbuild = "models:fraud"',
            "app.toml:7: [learner] build and use are both given; expected one of them.",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    mistakes: Mistakes, old: str, new: str, reported: str
) -> None:
    found = mistakes(MINIMAL.replace(old, new))

    assert len(found) == 1
    assert found[0].startswith(reported)


def test_conflicts_are_reported_beside_mistakes_of_other_sections(mistakes: Mistakes) -> None:
    text = MINIMAL.replace("binary", "regression").replace("logistic", "linear")

    assert mistakes(f'{text}[labels]\ncapacity = 0\n[event]\npositive = "yes"\n') == [
        "app.toml:8: [labels] capacity is 0; expected a whole number >= 1.",
        "app.toml:10: [event] positive is for the binary task, not for regression; leave it out.",
    ]


@pytest.mark.parametrize("written", ["1.5", '"error"', "true"])
def test_drift_that_is_no_list_of_tables_is_told(mistakes: Mistakes, written: str) -> None:
    assert mistakes(f"drift = {written}\n{MINIMAL}") == [
        f"app.toml:1: [[drift]] is {written}; expected tables [[drift]]."
    ]


def test_a_watched_feature_must_be_one_of_the_listed_features(mistakes: Mistakes) -> None:
    text = (
        f'{MINIMAL}[event]\nfeatures = ["amount"]\n[[drift]]\nwatch = "feature:amuont"\ndetector = "adwin"\n'
    )

    assert mistakes(text) == [
        'app.toml:10: [[drift]] number 1 watch is "feature:amuont", which is not among [event] features;'
        ' did you mean "amount"?'
    ]


def test_the_same_watch_with_the_same_detector_is_refused(mistakes: Mistakes) -> None:
    item = '[[drift]]\nwatch = "error"\ndetector = "adwin"\n'

    assert mistakes(MINIMAL + item + item) == [
        'app.toml:10: [[drift]] number 2 watches "error" with adwin like number 1; expected it once.'
    ]


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b'name = "fraud"\ntask binary\n', "app.toml:2: this is not TOML at column 6: "),
        (b'name = "a"\nname = "b"\n', "app.toml:2: this is not TOML at column 11: Cannot overwrite a value"),
        (b'name = "a\xff"\n', "app.toml: the file is not UTF-8 (byte 10); save it as UTF-8."),
        (b"name = [\n", "app.toml"),
        (b"seed = " + b"9" * 5000, "app.toml: this is not TOML: "),
        (b"a = " + b"[" * 5000, "app.toml"),
    ],
)
def test_a_file_that_is_not_toml_is_told_in_one_line(tmp_path: Path, content: bytes, reported: str) -> None:
    path = tmp_path / "app.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError) as raised:
        load_settings(path, {})

    assert len(raised.value.mistakes) == 1
    assert str(raised.value).removeprefix(f"{tmp_path}{os.sep}").startswith(reported)


def test_a_missing_file_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file; `headrace init` writes one"):
        load_settings(tmp_path / "app.toml", {})


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is a folder"):
        load_settings(tmp_path, {})


# --- What the other packages refuse ----------------------------------------------------------------------


def test_what_does_not_fit_the_task_is_refused_when_settings_are_loaded(mistakes: Mistakes) -> None:
    text = """\
name = "fraud"
task = "binary"
[topics]
events = "payments"
[learner]
use = "logistic-regresion"
[metrics]
use = ["accuracy", "mae"]
[[drift]]
watch = "error"
detector = "adwinn"
"""

    found = mistakes(text)

    assert [line.split(": ")[0] for line in found] == ["app.toml:6", "app.toml:8", "app.toml:9"]
    assert "[learner] use: " in found[0]
    assert '"logistic-regression"' in found[0]
    assert '[metrics] use: metric "mae"' in found[1]
    assert '[[drift]] number 1: detector "adwinn"' in found[2]


def test_parameters_that_the_learner_does_not_have_are_refused(mistakes: Mistakes) -> None:
    found = mistakes(f"{MINIMAL}parameters = {{ l3 = 1.0 }}\n")

    assert len(found) == 1
    assert found[0].startswith("app.toml:7: [learner] parameters: ")
    assert '"l3"' in found[0]


def test_sections_that_are_well_formed_are_checked_even_if_others_are_not(mistakes: Mistakes) -> None:
    found = mistakes(MINIMAL.replace("logistic-regression", "linear-regression") + "[labels]\ncapacity = 0\n")

    assert [line.split(": ")[0] for line in found] == ["app.toml:6", "app.toml:8"]


def test_the_users_own_learner_is_found_beside_the_settings_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "own_model_of_a_test.py").write_text(
        "from river import linear_model\n\n\ndef build(l2=0.0):\n    return linear_model.LogisticRegression(l2=l2)\n"
    )
    text = MINIMAL.replace('use = "logistic-regression"', 'build = "own_model_of_a_test:build"')

    assert load(f"{text}parameters = {{ l2 = 0.1 }}\n").learner.build == "own_model_of_a_test:build"


def test_a_function_of_the_user_that_is_not_there_is_a_mistake(mistakes: Mistakes) -> None:
    found = mistakes(MINIMAL.replace('use = "logistic-regression"', 'build = "no_such_module_at_all:build"'))

    assert len(found) == 1
    assert found[0].startswith("app.toml:6: [learner] build: ")


def test_who_does_not_learn_may_leave_the_learner_unseen_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    text = MINIMAL.replace('use = "logistic-regression"', 'build = "no_such_module_at_all:build"')
    file.write_text(text)

    assert load_settings(file, {}, check_learner=False).learner.build == "no_such_module_at_all:build"
    file.write_text(f'{text}[metrics]\nuse = ["acuracy"]\n[[drift]]\nwatch = "errors"\ndetector = "adwin"\n')
    with pytest.raises(ConfigError) as refused:
        load_settings(file, {}, check_learner=False)
    assert 'did you mean "accuracy"?' in str(refused.value)
    assert 'did you mean "error"?' in str(refused.value)


# --- Environment -----------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(load: Load) -> None:
    settings = load(
        f"{MINIMAL}[metrics]\nwindow = 100\n",
        {
            "HEADRACE_NAME": "other",
            "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "a:1,b:2",
            "HEADRACE_METRICS__WINDOW": "500",
            "HEADRACE_METRICS__USE": '["f1"]',
            "HEADRACE_LABELS__EXPIRE_AFTER_SECONDS": "1.5",
            "HEADRACE_EVENT__FEATURES": "payload",
            "HEADRACE_EVENT__POSITIVE": "true",
            "HEADRACE_DRIFT": '[{"watch": "error", "detector": "ddm"}]',
            "HEADRACE_KAFKA__LIBRDKAFKA": '{"socket.keepalive.enable": true}',
            "PATH": "/bin",
        },
    )

    assert settings.name == "other"
    assert settings.topics.alerts == "other.alerts"
    assert settings.kafka.bootstrap_servers == "a:1,b:2"
    assert settings.metrics.window == 500
    assert settings.metrics.use == ("f1",)
    assert settings.labels.expire_after_seconds == 1.5
    assert settings.event.features == "payload"
    assert settings.event.positive is True
    assert [item.detector for item in settings.drift] == ["ddm"]
    assert settings.kafka.librdkafka["socket.keepalive.enable"].get_secret_value() == "true"


def test_an_empty_variable_counts_as_not_set(load: Load) -> None:
    assert load(MINIMAL, {"HEADRACE_NAME": ""}).name == "fraud"


def test_variables_of_tests_and_broker_are_no_settings(load: Load) -> None:
    environ = {"HEADRACE_TEST_FULL": "1", "HEADRACE_BROKER_PORT": "9092", "HEADRACE_CACHE": "/tmp"}

    assert load(MINIMAL, environ).name == "fraud"


def test_a_mistake_in_the_environment_names_the_variable(mistakes: Mistakes) -> None:
    environ = {
        "HEADRACE_METRICS__WINDOW": "many",
        "HEADRACE_METRICS__WINDOWS": "5",
        "HEADRACE_task": "binary",
        "HEADRACE_KAFKA": "{}",
        "HEADRACE_DRIFT": '[{"watch": "error"}]',
    }

    found = mistakes(MINIMAL, environ)

    assert (
        "HEADRACE_METRICS__WINDOWS: this variable names no setting; did you mean HEADRACE_METRICS__WINDOW?"
        in found
    )
    assert "HEADRACE_task: this variable names no setting; did you mean HEADRACE_TASK?" in found
    assert (
        'HEADRACE_METRICS__WINDOW: [metrics] window is "many"; expected a whole number from 10 to 10000.'
        in found
    )
    assert "HEADRACE_DRIFT: [[drift]] number 1 detector is missing; expected the name of a detector." in found
    assert sum(line.startswith("HEADRACE_KAFKA: this variable names no setting") for line in found) == 1
    assert len(found) == 5


def test_a_value_that_no_terminal_can_print_is_reported_all_the_same(mistakes: Mistakes) -> None:
    found = mistakes(MINIMAL, {"HEADRACE_TASK": "bin\udcff\n"})

    assert found[0].encode().startswith(b'HEADRACE_TASK: task is "bin\\udcff\\n"; expected one of')


# --- Secrets ---------------------------------------------------------------------------------------------

SASL = """\
[kafka]
security_protocol = "SASL_PLAINTEXT"
sasl_mechanism = "PLAIN"
sasl_username = "me"
"""


def test_a_secret_is_read_from_its_file_without_the_line_end(load: Load, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret word\n")

    settings = load(f'{MINIMAL}{SASL}sasl_password_file = "password"\n')

    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == "s3cret word"


@pytest.mark.parametrize(
    ("content", "reported"),
    [(b"", "it is empty."), (b"\n", "it is empty."), (b"\xff\xfe", "it is not UTF-8.")],
)
def test_a_secret_file_without_a_secret_is_a_mistake(
    mistakes: Mistakes, tmp_path: Path, content: bytes, reported: str
) -> None:
    (tmp_path / "password").write_bytes(content)

    found = mistakes(f'{MINIMAL}{SASL}sasl_password_file = "password"\n')

    assert len(found) == 1
    assert "[kafka] sasl_password can't be read from sasl_password_file" in found[0]
    assert found[0].endswith(reported)


def test_a_secret_file_that_is_not_there_is_a_mistake(mistakes: Mistakes) -> None:
    found = mistakes(f'{MINIMAL}{SASL}sasl_password_file = "password"\n')

    assert "there is no such file." in found[0]


def test_a_secret_and_its_file_exclude_each_other(mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from-file")

    found = mistakes(
        f'{MINIMAL}{SASL}sasl_password_file = "password"\n', {"HEADRACE_KAFKA__SASL_PASSWORD": "s3cret"}
    )

    assert found == [
        "HEADRACE_KAFKA__SASL_PASSWORD: [kafka] sasl_password and sasl_password_file are both given;"
        " expected one of them."
    ]


def test_no_text_of_the_settings_shows_a_secret(load: Load) -> None:
    text = f'{MINIMAL}{SASL}[kafka.librdkafka]\n"ssl.keystore.password" = "s3cret-too"\n'

    settings = load(text, {"HEADRACE_KAFKA__SASL_PASSWORD": "s3cret"})

    shown = [
        repr(settings),
        str(settings),
        repr(settings.kafka),
        str(settings.model_dump()),
        settings.model_dump_json(),
        str(settings.shape()),
    ]
    assert not any("s3cret" in text for text in shown)


@pytest.mark.parametrize(
    "added",
    [
        "[kafka]\nsasl_password = ['s3cret']",
        "[kafka]\nsasl_password = { s3cret = 's3cret' }",
        "[kafka]\nsasl_pasword = 's3cret'",
        "[kafka]\nsasl_password = 's3cret'",
        "[kafka]\nkey_password = 's3cret'",
        "[kafka]\nsecurity_protocol = 'SASL_SSL'\nsasl_password = 's3cret'",
        "[kafka]\nsecurity_protocol = 'SASL_SSL'\nsasl_mechanism = 5\nsasl_password = 's3cret'",
        "[kafka.librdkafka]\n'sasl.password' = 's3cret'",
        "[kafka.librdkafka]\n'ssl.keystore.password' = ['s3cret']",
        "[kafka]\nlibrdkafka = 's3cret'",
        "[kafkaa]\nsasl_password = 's3cret'",
        "[topics.kafka]\nsasl_password = 's3cret'",
        "[worker]\nsasl_password = 's3cret'",
        "[[kafka]]\nsasl_password = 's3cret'",
        "[kafka]\nsasl_password = 's3cret",
        "[kafka]\nsasl_password = s3cret",
    ],
)
def test_no_mistake_shows_a_secret_not_even_in_its_traceback(load: Load, added: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(f"{MINIMAL}{added}\n")

    told = "".join(traceback.format_exception(raised.value, chain=True))
    assert raised.value.mistakes
    assert "s3cret" not in told


@pytest.mark.parametrize(
    "variable", ["HEADRACE_KAFKA__SASL_PASWORD", "HEADRACE_KAFKA", "HEADRACE_KAFKA__LIBRDKAFKA"]
)
def test_no_mistake_in_the_environment_shows_a_secret(load: Load, variable: str) -> None:
    environ = {variable: '{"sasl.password": "s3cret"}'}

    with pytest.raises(ConfigError) as raised:
        load(MINIMAL, environ)

    assert "s3cret" not in "".join(traceback.format_exception(raised.value))


# --- Connection ------------------------------------------------------------------------------------------


def test_sasl_needs_mechanism_name_and_password(mistakes: Mistakes) -> None:
    assert mistakes(f'{MINIMAL}[kafka]\nsecurity_protocol = "SASL_SSL"\n') == [
        "app.toml:7: [kafka] sasl_mechanism is missing; security_protocol SASL_SSL needs"
        ' one of "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512".',
        "app.toml:7: [kafka] sasl_username is missing; security_protocol SASL_SSL needs a text.",
        "app.toml:7: [kafka] sasl_password is missing; security_protocol SASL_SSL needs a text that is not empty.",
    ]


def test_what_the_protocol_does_not_use_is_refused(mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()

    assert mistakes(f'{MINIMAL}[kafka]\nca_file = "ca.pem"\nsasl_username = "me"\n') == [
        "app.toml:8: [kafka] ca_file is given, but security_protocol is PLAINTEXT; expected SSL or SASL_SSL.",
        "app.toml:9: [kafka] sasl_username is given, but security_protocol is PLAINTEXT; expected SASL_SSL.",
    ]


def test_certificate_and_key_need_each_other(mistakes: Mistakes, tmp_path: Path) -> None:
    (tmp_path / "a.pem").touch()
    text = f'{MINIMAL}[kafka]\nsecurity_protocol = "SSL"\n'

    assert mistakes(f'{text}certificate_file = "a.pem"\n') == [
        "app.toml:7: [kafka] key_file is missing; certificate_file needs it."
    ]
    assert mistakes(f'{text}key_file = "a.pem"\nkey_password = "x"\n') == [
        "app.toml:7: [kafka] certificate_file is missing; key_file needs it."
    ]


def test_a_certificate_file_that_is_none_is_refused_before_any_connection(
    mistakes: Mistakes, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    found = mistakes(f'{MINIMAL}[kafka]\nsecurity_protocol = "SSL"\nca_file = "ca.pem"\n')

    assert len(found) == 1
    assert found[0].startswith("app.toml:9: [kafka] ca_file can't be used for TLS")


def test_an_encrypted_key_without_its_password_is_refused_and_nobody_is_asked(
    load: Load, mistakes: Mistakes, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("client")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    (tmp_path / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"s3cret"),
        )
    )
    text = (
        f'{MINIMAL}[kafka]\nsecurity_protocol = "SSL"\nca_file = "ca.pem"\n'
        'certificate_file = "client.pem"\nkey_file = "client.key"\n'
    )

    assert load(f'{text}key_password = "s3cret"\n').kafka.key_file == tmp_path / "client.key"
    assert "can't be used for TLS" in mistakes(text)[0]
    assert "can't be used for TLS" in mistakes(f'{text}key_password = "wrong"\n')[0]


def test_keys_for_librdkafka_may_be_quoted_or_not_and_become_text(load: Load) -> None:
    settings = load(
        f'{MINIMAL}[kafka.librdkafka]\nsocket.keepalive.enable = true\n"queued.min.messages" = 1000\n'
        "queue.buffering.max.ms = 0.5\nclient.id = 'me'\n"
    )

    assert {key: value.get_secret_value() for key, value in settings.kafka.librdkafka.items()} == {
        "socket.keepalive.enable": "true",
        "queued.min.messages": "1000",
        "queue.buffering.max.ms": "0.5",
        "client.id": "me",
    }


def test_keys_that_the_protocol_owns_are_refused_with_the_reason_or_the_neutral_key(
    mistakes: Mistakes,
) -> None:
    text = f'{MINIMAL}[kafka.librdkafka]\ngroup.id = "x"\n"sasl.password" = "x"\nsession.timeout.ms = 1\n'

    assert mistakes(text) == [
        "app.toml:8: [kafka] librdkafka.group.id can't be set: it is the pipeline's name.",
        "app.toml:9: [kafka] librdkafka.sasl.password is for all clients: set sasl_password in [kafka] instead.",
        "app.toml:10: [kafka] librdkafka.session.timeout.ms can't be set: set [worker] session_timeout_ms instead.",
    ]


# --- Shape -----------------------------------------------------------------------------------------------


def test_shape_names_the_sections_that_a_change_touches(load: Load) -> None:
    before = load(MINIMAL).shape()

    def changed(text: str) -> set[str]:
        after = load(text).shape()
        return {name for name in before if before[name] != after[name]}

    assert set(before) == {"task", "events", "event", "labels", "learner", "metrics", "drift"}
    assert all(re.fullmatch("[0-9a-f]{8}", digest) for digest in before.values())
    assert changed(MINIMAL.replace("payments", "clicks")) == {"events"}
    assert changed(f"{MINIMAL}parameters = {{ l2 = 0.1 }}\n") == {"learner"}
    assert changed(f"{MINIMAL}seed = 1\n") == {"learner"}
    assert changed(f"{MINIMAL}[labels]\ncapacity = 5\n") == {"labels"}
    assert changed(f'{MINIMAL}[event]\nfeatures = ["a"]\n') == {"event"}
    assert changed(f"{MINIMAL}[metrics]\nwindow = 50\n") == {"metrics"}
    assert changed(f'{MINIMAL}[[drift]]\nwatch = "error"\ndetector = "ddm"\n') == {"drift"}


def test_shape_is_blind_to_what_does_not_touch_the_state(load: Load) -> None:
    text = (
        f'{MINIMAL}[kafka]\nbootstrap_servers = "b:1"\n[worker]\ncommit_interval_ms = 50\n[topics]\n'.replace(
            '[topics]\nevents = "payments"\n', ""
        )
    )

    assert load(f'{text}events = "payments"\nstart = "latest"\n').shape() == load(MINIMAL).shape()


def test_shape_tells_true_from_one_and_both_from_text(load: Load) -> None:
    digests = {
        load(f"{MINIMAL}[event]\npositive = {value}\n").shape()["event"] for value in ("1", "true", '"1"')
    }

    assert len(digests) == 3


def test_shape_changes_with_the_source_of_the_users_own_learner(load: Load, tmp_path: Path) -> None:
    module = tmp_path / "own_source_of_a_test.py"
    source = (
        "from river import linear_model\n\n\ndef build():\n    return linear_model.LogisticRegression()\n"
    )
    module.write_text(source)
    settings = load(MINIMAL.replace('use = "logistic-regression"', 'build = "own_source_of_a_test:build"'))
    before = settings.shape()

    module.write_text(source + "# another line\n")

    after = settings.shape()
    assert {name for name in before if before[name] != after[name]} == {"learner"}


# --- Lines -----------------------------------------------------------------------------------------------


def test_lines_are_found_through_everything_that_toml_allows() -> None:
    text = '''\
# a = 1
"a b" = 1
a.b = 2

text = """
[no.table]
c = 3
"""
list = [
  1, # one ]
  2,
]
[x.y] # comment
inline = { p = 1, q = { r = "]" } }
[[drift]]
watch = "error"
[drift.parameters]
delta = 1
[[ drift ]]
watch = "label"
[kafka.librdkafka]
socket.keepalive.enable = true
"group.id" = 1
'''

    lines = lines_of(text)

    assert lines == {
        ("a b",): 2,
        ("a",): 3,
        ("a", "b"): 3,
        ("text",): 5,
        ("list",): 9,
        ("x", "y"): 13,
        ("x", "y", "inline"): 14,
        ("x", "y", "inline", "p"): 14,
        ("x", "y", "inline", "q"): 14,
        ("x", "y", "inline", "q", "r"): 14,
        ("drift", 0): 15,
        ("drift", 0, "watch"): 16,
        ("drift", 0, "parameters"): 17,
        ("drift", 0, "parameters", "delta"): 18,
        ("drift", 1): 19,
        ("drift", 1, "watch"): 20,
        ("kafka", "librdkafka"): 21,
        ("kafka", "librdkafka", "socket"): 22,
        ("kafka", "librdkafka", "socket.keepalive"): 22,
        ("kafka", "librdkafka", "socket.keepalive.enable"): 22,
        ("kafka", "librdkafka", "group.id"): 23,
    }


# --- Example and reference -------------------------------------------------------------------------------


def test_the_example_is_valid_as_it_is(load: Load) -> None:
    settings = load(example_settings("clicks"))

    assert settings.name == "clicks"
    assert settings.topics.events == "clicks"


def test_every_option_that_the_example_comments_out_is_valid(load: Load) -> None:
    text = example_settings()
    options = re.findall(r"(?m)^#(?=\w)", text)

    settings = load(re.sub(r"(?m)^#(?=\w)", "", text))

    assert len(options) >= 9
    assert settings.event.positive == "yes"
    assert settings.event.time == "created_at"
    assert settings.learner.parameters == {"l2": 0.001}


def test_every_setting_has_a_meaning_in_the_reference() -> None:
    assert "| None |" not in settings_page()


def test_every_setting_has_a_variable() -> None:
    variables = environment_variables()

    assert variables["HEADRACE_WORKER__DELIVERY"][0] == ("worker", "delivery")
    assert variables["HEADRACE_DRIFT"][0] == ("drift",)
    assert "HEADRACE_KAFKA" not in variables


def test_importing_the_settings_does_not_import_river() -> None:
    code = "import sys, json, stream.settings; print(json.dumps([m for m in sys.modules if m == 'river']))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert json.loads(done.stdout) == []
