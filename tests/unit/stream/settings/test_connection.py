import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]  # kafka-python ships no types
from pydantic import SecretStr

from stream.settings.connection import (
    CLIENT_KEYS,
    OWNED_KEYS,
    KafkaSettings,
    aiokafka_config,
    connection_warnings,
    kafka_python_config,
    librdkafka_config,
    refusal,
)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("client")
    files = {name: folder / f"{name}.pem" for name in ("ca_file", "certificate_file", "key_file")}
    authority.cert_pem.write_to_path(files["ca_file"])
    certificate.cert_chain_pems[0].write_to_path(files["certificate_file"])
    certificate.private_key_pem.write_to_path(files["key_file"])
    return files


@pytest.fixture(scope="module")
def full(tls: dict[str, Path]) -> KafkaSettings:
    """Every neutral key is set."""
    return KafkaSettings(
        bootstrap_servers="a:1,b:2",
        security_protocol="SASL_SSL",
        **tls,
        key_password=SecretStr("key-password"),
        sasl_mechanism="SCRAM-SHA-256",
        sasl_username="me",
        sasl_password=SecretStr("password"),
        librdkafka={"socket.keepalive.enable": SecretStr("true")},
    )


def test_every_neutral_key_reaches_librdkafka(full: KafkaSettings) -> None:
    assert librdkafka_config(full) == {
        "bootstrap.servers": "a:1,b:2",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(full.ca_file),
        "ssl.certificate.location": str(full.certificate_file),
        "ssl.key.location": str(full.key_file),
        "ssl.key.password": "key-password",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": "password",
        "socket.keepalive.enable": "true",
    }


def test_every_neutral_key_reaches_kafka_python(full: KafkaSettings) -> None:
    assert kafka_python_config(full) == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "SASL_SSL",
        "ssl_cafile": str(full.ca_file),
        "ssl_certfile": str(full.certificate_file),
        "ssl_keyfile": str(full.key_file),
        "ssl_password": "key-password",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "me",
        "sasl_plain_password": "password",
    }


def test_kafka_python_knows_every_key_we_hand_to_it(full: KafkaSettings) -> None:
    for client in (KafkaConsumer, KafkaProducer):
        assert set(kafka_python_config(full)) <= set(client.DEFAULT_CONFIG)


def test_librdkafka_accepts_every_key_we_hand_to_it(full: KafkaSettings) -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka")

    # Reads certificate and key as well; connects to nobody before the first poll.
    confluent_kafka.Producer(librdkafka_config(full) | {"log_level": 0})


def test_librdkafka_knows_every_key_that_we_refuse() -> None:
    confluent_kafka = pytest.importorskip("confluent_kafka")
    keys = [*OWNED_KEYS, *(name for row in CLIENT_KEYS for name in (row.librdkafka, *row.aliases))]

    for key in keys:
        with pytest.raises(confluent_kafka.KafkaException) as raised:
            confluent_kafka.Producer({key: "1", "no.such.key": "1"})
        assert f'No such configuration property: "{key}"' not in str(raised.value)


def test_every_neutral_key_reaches_aiokafka(full: KafkaSettings) -> None:
    found = aiokafka_config(full)

    context = found.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert found == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "me",
        "sasl_plain_password": "password",
    }


def test_a_plain_connection_needs_two_keys_only() -> None:
    kafka = KafkaSettings()
    plain: dict[str, Any] = {"bootstrap_servers": "127.0.0.1:9092", "security_protocol": "PLAINTEXT"}

    assert kafka_python_config(kafka) == plain
    assert aiokafka_config(kafka) == plain
    assert librdkafka_config(kafka) == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "PLAINTEXT",
    }


def test_the_table_has_a_row_for_each_neutral_setting() -> None:
    files_of_secrets = {"key_password_file", "sasl_password_file"}
    neutral = set(KafkaSettings.model_fields) - files_of_secrets - {"librdkafka"}

    assert {row.setting for row in CLIENT_KEYS} == neutral


def test_neutral_and_owned_keys_are_refused_and_others_are_not() -> None:
    assert refusal("metadata.broker.list") == "is for all clients: set bootstrap_servers in [kafka] instead."
    assert (
        refusal("isolation.level")
        == "can't be set: it is read_committed, or aborted events would be learned."
    )
    assert refusal("linger.ms") is None


def test_a_password_without_encryption_is_warned_about() -> None:
    kafka = KafkaSettings(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password=SecretStr("s3cret"),
    )

    (warning,) = connection_warnings(kafka)

    assert "the password and all records cross the network in clear; use SASL_SSL" in warning
    assert connection_warnings(KafkaSettings()) == []


def test_importing_the_table_imports_no_client() -> None:
    code = "import sys, stream.settings.connection; print({'kafka', 'aiokafka', 'confluent_kafka'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert done.stdout.strip() == "set()"
