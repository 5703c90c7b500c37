"""The production set, held against itself, the code and what its files refer to: no Docker engine is needed.

Of the compose specification only what the file uses is known here: a key that is none of these is a misspelt one, or
one to be looked up and added.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from stream.cli import app
from stream.health import HealthBoard, HealthPolicy, HealthServer, WorkerFacts
from stream.settings import example_settings, load_settings
from stream.testing import ManualClock
from tests.helpers import free_port

ROOT = Path(__file__).parents[2]
#: Of the specification, what may stand in a service of ours.
KEYS = {
    *("build", "cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "image", "init"),
    *("logging", "networks", "ports", "read_only", "restart", "secrets", "security_opt", "stop_grace_period"),
    *("tmpfs", "volumes", "working_dir"),
}
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
DURATION = re.compile(r"\d+(s|m|h)")
SIZE = re.compile(r"\d+(m|g)")
#: Folders that the operator makes.
OF_THE_OPERATOR = ("./pipeline", "./secrets")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def variables(text: str) -> dict[str, str | None]:
    """Variables of a compose file with their defaults; None: it must be given."""
    found: dict[str, str | None] = {}
    for name, sign, rest in VARIABLE.findall(text):
        found[name] = rest if sign == "-" else found.get(name)
    return found


def filled_in(text: str, environ: Mapping[str, str]) -> str:
    """The text with its variables' values."""
    defaults = variables(text)
    return VARIABLE.sub(lambda match: environ.get(match[1]) or defaults[match[1]] or "", text)


TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(filled_in(TEXT, {"PIPELINE": "payments"}))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NAMES = sorted(SERVICES)
#: Those that run our image.
OURS = [name for name in NAMES if "build" in SERVICES[name]]
WORKERS = [name for name in OURS if SERVICES[name]["command"][0] == "run"]
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
JOBS = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}


def mounts(name: str) -> dict[str, str]:
    """Where a service finds what."""
    return {
        target: source
        for source, target, *_ in (item.split(":") for item in SERVICES[name].get("volumes", ()))
    }


# The compose file -----------------------------------------------------------------------------------------------


def test_the_file_has_no_unknown_section() -> None:
    known = {"name", "services", "networks", "volumes", "secrets"}

    assert {key for key in COMPOSE if not key.startswith("x-")} == known
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", COMPOSE["name"])


@pytest.mark.parametrize("name", NAMES)
def test_a_service_has_only_keys_of_the_specification(name: str) -> None:
    service = SERVICES[name]

    assert set(service) <= KEYS
    assert ("image" in service) or ("build" in service)
    assert set(service["deploy"]) == {"resources"}
    assert set(service["deploy"]["resources"]) == {"limits"}
    assert service["restart"] in ("no", "unless-stopped")
    assert all(isinstance(value, str) for value in service.get("environment", {}).values())
    assert all(isinstance(word, str) for word in service.get("command", ()))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_service_refers_to_is_there(name: str) -> None:
    service = SERVICES[name]

    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    for target, source in mounts(name).items():
        assert target.startswith("/")
        if not source.startswith("."):
            assert source in COMPOSE["volumes"]
    for other, how in service.get("depends_on", {}).items():
        assert set(how) == {"condition"}
        assert how["condition"] in CONDITIONS
        assert set(SERVICES[other]["networks"]) & set(service["networks"])
        if how["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
        if how["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"


def test_nothing_is_declared_that_nobody_uses() -> None:
    named = {source for name in NAMES for source in mounts(name).values()}

    assert {key for name in NAMES for key in SERVICES[name]["networks"]} == set(COMPOSE["networks"])
    assert {key for name in NAMES for key in SERVICES[name].get("secrets", ())} == set(COMPOSE["secrets"])
    assert set(COMPOSE["volumes"]) <= named


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_mounted_exist_and_stay_as_they_are(name: str) -> None:
    for item in SERVICES[name].get("volumes", ()):
        source, _, *mode = item.split(":")
        if source.startswith("."):
            assert mode == ["ro"]
            assert source in OF_THE_OPERATOR or (ROOT / source).exists()


def test_secrets_come_from_files_that_are_never_committed_and_never_in_an_image() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()

    for secret in COMPOSE["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("./secrets/")
    assert {"/secrets/", "/.env", "/pipeline/"} <= set(ignored)
    assert not any(
        reaches_the_builder(name) for name in ("secrets/monitor-token", ".env", "pipeline/payments.toml")
    )
    for name in NAMES:
        for key, value in SERVICES[name].get("environment", {}).items():
            assert value.startswith("/run/secrets/") or not re.search(r"PASSWORD|TOKEN|SECRET|_KEY$", key)


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_published_on_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        match = re.fullmatch(r"127\.0\.0\.1:(\d+):(\d+)", port)
        assert match is not None, port
        assert all(0 < int(number) < 65_536 for number in match.groups())


def test_no_port_is_published_twice() -> None:
    published = [port.split(":")[1] for name in NAMES for port in SERVICES[name].get("ports", ())]

    assert len(set(published)) == len(published)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", NAMES)
def test_what_a_service_may_use_is_limited(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]

    assert set(limits) == {"cpus", "memory", "pids"}
    assert float(limits["cpus"]) > 0
    assert SIZE.fullmatch(limits["memory"])
    assert isinstance(limits["pids"], int)
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}
    if "stop_grace_period" in service:
        assert DURATION.fullmatch(service["stop_grace_period"])


@pytest.mark.parametrize("name", NAMES)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]

    assert service["security_opt"] == ["no-new-privileges:true"]
    if name != "kafka":  # its image writes its configuration into itself when it starts
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    if name in OURS:
        assert (service["init"], service["tmpfs"]) == (True, ["/tmp"])
    if name == "monitor":  # it makes a folder where it runs
        assert service["working_dir"] in service["tmpfs"]


@pytest.mark.parametrize("name", NAMES)
def test_a_service_that_stays_says_whether_it_is_healthy(name: str) -> None:
    check: dict[str, Any] = SERVICES[name].get("healthcheck", {})

    if name in WORKERS:
        assert check == {}  # the image has one
    elif SERVICES[name]["restart"] == "no":
        assert check == {"disable": True}
    else:
        assert set(check) == HEALTH_KEYS
        assert check["test"][0] in ("CMD", "CMD-SHELL")
        assert all(DURATION.fullmatch(check[key]) for key in HEALTH_KEYS - {"test", "retries"})


def test_every_variable_is_in_the_example_or_has_a_default() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    assert set(example) == set(variables(TEXT))
    assert all(example[name] == default for name, default in variables(TEXT).items() if default is not None)


# Our services ---------------------------------------------------------------------------------------------------


def test_workers_differ_in_their_name_only_and_there_are_partitions_for_all() -> None:
    assert len(WORKERS) == 2
    shown = [dict(SERVICES[name]) for name in WORKERS]
    environments = [dict(service.pop("environment")) for service in shown]
    names = [environment.pop("HEADRACE_WORKER__INSTANCE") for environment in environments]

    assert names == WORKERS
    assert shown[0] == shown[1]
    assert environments[0] == environments[1]
    assert int(variables(TEXT)["PARTITIONS"] or 0) >= len(WORKERS)


@pytest.mark.parametrize("name", OURS)
def test_the_environment_of_a_service_is_settings_that_exist(name: str, tmp_path: Path) -> None:
    path = tmp_path / "payments.toml"
    path.write_text(example_settings("payments"), encoding="utf-8")
    environ = {
        key: value for key, value in SERVICES[name]["environment"].items() if key.startswith("HEADRACE_")
    }

    settings = load_settings(path, environ)

    assert settings.kafka.bootstrap_servers == "kafka:9092"
    if name in WORKERS:
        assert (settings.worker.instance, settings.health.host, settings.health.port) == (
            name,
            "0.0.0.0",
            8811,
        )
        (folder,) = (target for target, source in mounts(name).items() if source == "snapshots")
        assert str(settings.snapshots.location).startswith(folder)


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_service_exists_with_its_options(name: str) -> None:
    words = list(SERVICES[name]["command"])
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]

    command.make_context("headrace", words)


def test_the_broker_is_told_where_our_services_look_for_it() -> None:
    environment = SERVICES["kafka"]["environment"]
    advertised = dict(item.split("://") for item in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listeners = dict(item.split("://") for item in environment["KAFKA_LISTENERS"].split(","))
    (port,) = SERVICES["kafka"]["ports"]

    assert advertised["INSIDE"] == f"kafka{listeners['INSIDE']}" == "kafka:9092"
    assert f"{advertised['OUTSIDE']}{listeners['OUTSIDE']}" == port
    assert set(
        environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].replace(":PLAINTEXT", "").split(",")
    ) == set(listeners)
    assert environment["KAFKA_LOG_DIRS"] in mounts("kafka")


# Prometheus and Grafana -----------------------------------------------------------------------------------------


def test_prometheus_asks_the_workers_and_the_monitor_where_they_answer() -> None:
    (workers,) = JOBS["headrace"]["static_configs"]
    (monitor,) = JOBS["headrace-monitor"]["static_configs"]
    command = SERVICES["monitor"]["command"]

    assert workers["targets"] == [
        f"{name}:{SERVICES[name]['environment']['HEADRACE_HEALTH__PORT']}" for name in WORKERS
    ]
    assert monitor["targets"] == [f"monitor:{command[command.index('--port') + 1]}"]
    # The monitor answers under names that it knows only.
    assert command[command.index("--name") + 1] == "monitor"
    for name in (*WORKERS, "monitor"):
        assert set(SERVICES[name]["networks"]) & set(SERVICES["prometheus"]["networks"])


def test_prometheus_shows_the_monitor_the_token_that_it_was_started_with() -> None:
    credentials = JOBS["headrace-monitor"]["authorization"]
    command = SERVICES["monitor"]["command"]

    assert credentials["type"] == "Bearer"
    assert credentials["credentials_file"] == command[command.index("--token-file") + 1]
    secret = credentials["credentials_file"].removeprefix("/run/secrets/")
    assert secret in SERVICES["prometheus"]["secrets"]
    assert secret in SERVICES["monitor"]["secrets"]


def test_prometheus_finds_its_files_and_keeps_its_data() -> None:
    arguments = dict(word.removeprefix("--").split("=") for word in SERVICES["prometheus"]["command"])
    found = mounts("prometheus")
    config = Path(arguments["config.file"])

    assert found[str(config)] == "./deploy/prometheus.yml"
    assert [found[str(config.parent / name)] for name in PROMETHEUS["rule_files"]] == ["./deploy/alerts.yml"]
    assert found[arguments["storage.tsdb.path"]] in COMPOSE["volumes"]


def test_the_rules_ask_for_jobs_that_there_are() -> None:
    rules = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")

    assert set(re.findall(r'job="([^"]+)"', rules)) <= set(JOBS)


def test_promtool_takes_the_configuration(prometheus_installed: None) -> None:
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", ROOT / "deploy" / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_its_data_source_its_dashboards_and_its_home() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "headrace.yml").read_text())["providers"]
    found, environment = mounts("grafana"), SERVICES["grafana"]["environment"]
    folder = provider["options"]["path"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])

    assert source["url"] == "http://prometheus:9090"
    assert found[folder] == "./deploy/grafana/dashboards"
    assert home.parent == Path(folder)
    assert (ROOT / found[folder] / home.name).exists()
    for kind in ("datasources", "dashboards"):
        assert found[f"/etc/grafana/provisioning/{kind}"] == f"./deploy/grafana/provisioning/{kind}"


def test_nobody_comes_into_grafana_without_a_password() -> None:
    environment = SERVICES["grafana"]["environment"]

    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    password = environment["GF_SECURITY_ADMIN_PASSWORD__FILE"].removeprefix("/run/secrets/")
    assert password in SERVICES["grafana"]["secrets"]


# The image ------------------------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    """A line of a Dockerfile, continuations joined."""

    name: str
    rest: str


def instructions() -> Iterator[Instruction]:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield Instruction(name, " ".join(rest.split()))


INSTRUCTIONS = list(instructions())
LAST_FROM = max(number for number, item in enumerate(INSTRUCTIONS) if item.name == "FROM")
#: The stage that becomes the image.
STAGE = INSTRUCTIONS[LAST_FROM:]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def rest_of(name: str) -> str:
    """What follows the one instruction of this name in the last stage."""
    (found,) = (item.rest for item in STAGE if item.name == name)
    return found


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets a file through: the last line that fits decides."""
    result = True
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#"):
            names = parents if not line.startswith("**/") else list(Path(path).parts)
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                result = line.startswith("!")
    return result


def test_the_base_is_pinned_slim_and_a_python_that_we_support() -> None:
    bases = {item.rest.partition(" ")[0] for item in INSTRUCTIONS if item.name == "FROM"}
    (base,) = bases  # one for both stages, or the virtual environment would not fit
    match = re.fullmatch(r"python:3\.(\d+)\.\d+-slim-\w+", base)

    assert match is not None
    assert f"Programming Language :: Python :: 3.{match[1]}" in PROJECT["project"]["classifiers"]


def test_the_image_runs_as_nobody_special() -> None:
    order = [item.name for item in STAGE]

    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", rest_of("USER"))
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert not any(item.name in ("RUN", "COPY", "ADD") for item in STAGE[order.index("USER") :])


def test_the_image_ends_when_told_and_says_whether_it_is_healthy() -> None:
    assert rest_of("STOPSIGNAL") == "SIGTERM"
    assert rest_of("ENTRYPOINT") == '["headrace"]'
    assert rest_of("CMD") == '["--help"]'
    assert 'CMD ["python", "/opt/headrace/healthcheck.py", "http://127.0.0.1:8811/healthz"]' in rest_of(
        "HEALTHCHECK"
    )
    assert "COPY deploy/healthcheck.py /opt/headrace/healthcheck.py" in {" ".join(item) for item in STAGE}
    assert SERVICES["monitor"]["healthcheck"]["test"][1:3] == ["python", "/opt/headrace/healthcheck.py"]


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    for item in INSTRUCTIONS:
        if item.name == "COPY" and "--from" not in item.rest:
            for source in shlex.split(item.rest)[:-1]:
                assert (ROOT / source).exists()
                assert reaches_the_builder(source), source
    assert reaches_the_builder("stream/cli.py")
    assert not reaches_the_builder("stream/__pycache__/cli.pyc")
    assert not reaches_the_builder("tests/conftest.py")
    assert not reaches_the_builder("deploy/alerts.yml")


def test_every_package_of_the_wheel_is_copied_and_the_extras_exist() -> None:
    copied = {shlex.split(item.rest)[0] for item in INSTRUCTIONS if item.name == "COPY"}
    packages = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    installed = next(item.rest for item in INSTRUCTIONS if "--constraint constraints.txt" in item.rest)
    extras = re.search(r"\[([\w,]+)\]", installed)

    assert packages <= copied
    assert extras is not None
    assert set(extras[1].split(",")) == {"monitor", "s3"} <= set(PROJECT["project"]["optional-dependencies"])


def test_the_image_is_of_the_version_that_compose_names() -> None:
    version = PROJECT["project"]["version"]

    assert {SERVICES[name]["image"] for name in OURS} == {f"headrace:{version}"}
    assert f"headrace:{version}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


# The health check -----------------------------------------------------------------------------------------------


def checked(port: int, **environ: str) -> tuple[int, str]:
    """Exit code and output of the image's health check."""
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "healthcheck.py", f"http://127.0.0.1:{port}/healthz"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_health_check_asks_the_worker_whatever_the_proxy() -> None:
    clock = ManualClock(0.0)
    board = HealthBoard(pipeline="p", worker="p-host-0", policy=HealthPolicy(topic="events"), clock=clock)
    board.report(WorkerFacts(turned_at=0.0, progressed_at=0.0, has_assignment=True))
    server = HealthServer(board, "127.0.0.1", 0)
    try:
        assert checked(server.port, http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9") == (
            0,
            "",
        )

        clock.now = 400.0
        code, said = checked(server.port)
    finally:
        server.close()

    assert code == 1
    assert "answered 503" in said
    assert "its loop has not come round for 400 s" in said


def test_the_health_check_fails_when_nobody_answers() -> None:
    code, said = checked(free_port())

    assert code == 1
    assert "does not answer" in said
