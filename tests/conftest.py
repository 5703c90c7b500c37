"""What integration and fault tests share: a real broker, topics on it, a broker to freeze or kill, and an S3 server.

The broker is that of `headrace broker`. Where it can't be had (extra not installed, no internet for the first
download) the tests are skipped on a laptop, and fail with CI=true or HEADRACE_TEST_REQUIRE_KAFKA=1. The same holds for
Prometheus: HEADRACE_TEST_REQUIRE_PROMETHEUS=1.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from stream.broker import Broker, find_jars, find_java
from stream.errors import EnvironmentRefused
from tests.s3 import ENVIRONMENT, S3Server

# A slow machine is no failure, and what a run finds must not depend on what an earlier one left behind.
hypothesis.settings.register_profile(
    "headrace",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("headrace")

#: Tests freeze group members past their session timeout: 6 s, Kafka's least, would be a long wait.
TEST_PROPERTIES = {"group.min.session.timeout.ms": "1000"}
#: Java's quick compiler only: a start takes 4 seconds of CPU instead of 7, for a lower top speed.
TEST_JAVA_OPTIONS = ("-XX:TieredStopAtLevel=1",)


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python reads its schemas with two functions that are deprecated in Python 3.11 and 3.12 only.
    for function, module in (("read_text", "kafka.protocol.schemas.load_json"), ("open_text", "")):
        config.addinivalue_line(
            "filterwarnings", f"ignore:{function} is deprecated:DeprecationWarning:{module}"
        )


@pytest.fixture(scope="session")
def kafka_installed() -> None:
    """Skip what needs a broker, or fail, if this machine can't have one; downloads it the first time."""
    try:
        find_jars()
        find_java()
    except EnvironmentRefused as refusal:
        skip_on_a_laptop(str(refusal), or_fail_with="HEADRACE_TEST_REQUIRE_KAFKA")


def skip_on_a_laptop(reason: str, *, or_fail_with: str) -> NoReturn:
    """Skip the test, or fail it in CI and where this environment variable asks for it."""
    if os.environ.get("CI") == "true" or os.environ.get(or_fail_with) == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def prometheus_installed() -> None:
    """Skip what needs Prometheus and promtool, or fail, if this machine does not have them."""
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if missing:
        skip_on_a_laptop(
            f"{' and '.join(missing)} not found: install Debian's package prometheus",
            or_fail_with="HEADRACE_TEST_REQUIRE_PROMETHEUS",
        )


@pytest.fixture(scope="session")
def broker(kafka_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker that all tests share; don't stop, freeze or kill it (see `private_broker`)."""
    folder = tmp_path_factory.mktemp("broker")
    with Broker(
        folder, port=0, heap_mb=384, properties=TEST_PROPERTIES, java_options=TEST_JAVA_OPTIONS
    ) as it:
        yield it


@pytest.fixture
def private_broker(kafka_installed: None, tmp_path: Path) -> Iterator[Broker]:
    """A running broker for this test alone, to freeze, kill and restart; ended even if it is frozen."""
    folder = tmp_path / "private-broker"
    with Broker(
        folder, port=0, heap_mb=256, properties=TEST_PROPERTIES, java_options=TEST_JAVA_OPTIONS
    ) as it:
        yield it


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[None]:
    """Credentials and region for the tests' S3 server, in the environment of this process and what it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def s3_server(s3_environment: None) -> Iterator[S3Server]:
    """The S3 server that all tests share; freeze it for a moment at most, and don't kill it."""
    with S3Server() as server:
        yield server


@pytest.fixture
def private_s3_server(s3_environment: None) -> Iterator[S3Server]:
    """A running S3 server for this test alone, to freeze, kill and start again."""
    with S3Server() as server:
        yield server


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> str:
    """A topic name that no other test uses, and that says whose it is."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"{test[:60]}-{uuid.uuid4().hex[:8]}"


def create_topic(broker: Broker, name: str, partitions: int = 1, **configs: str) -> None:
    """Make a topic and wait until each of its partitions has a leader.

    Example: `create_topic(broker, topic_name, partitions=4, **{"cleanup.policy": "compact"})`.
    """
    from kafka import KafkaAdminClient  # type: ignore[import-untyped]  # kafka-python ships no types

    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        admin.create_topics(
            {name: {"num_partitions": partitions, "replication_factor": 1, "configs": configs}},
            wait_for_metadata=True,
        )
    finally:
        admin.close()
