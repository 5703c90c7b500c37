"""One table from the neutral keys of `[kafka]` to the keys of each client.

A connection is described once, in the settings; librdkafka (data plane), kafka-python (tools) and aiokafka
(control plane) each get it in their own words. No client is imported here.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

if TYPE_CHECKING:
    from stream.settings import KafkaSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKey:
    """One neutral key and what each client calls it."""

    #: The key in `[kafka]`.
    setting: str
    librdkafka: str
    kafka_python: str
    #: None: part of the `ssl_context`, which is all that aiokafka knows of TLS.
    aiokafka: str | None
    #: Other names that librdkafka has for the same thing.
    aliases: tuple[str, ...] = ()


CLIENT_KEYS = (
    ClientKey(
        setting="bootstrap_servers",
        librdkafka="bootstrap.servers",
        kafka_python="bootstrap_servers",
        aiokafka="bootstrap_servers",
        aliases=("metadata.broker.list",),
    ),
    ClientKey(
        setting="security_protocol",
        librdkafka="security.protocol",
        kafka_python="security_protocol",
        aiokafka="security_protocol",
    ),
    ClientKey(setting="ca_file", librdkafka="ssl.ca.location", kafka_python="ssl_cafile", aiokafka=None),
    ClientKey(
        setting="certificate_file",
        librdkafka="ssl.certificate.location",
        kafka_python="ssl_certfile",
        aiokafka=None,
    ),
    ClientKey(setting="key_file", librdkafka="ssl.key.location", kafka_python="ssl_keyfile", aiokafka=None),
    ClientKey(
        setting="key_password", librdkafka="ssl.key.password", kafka_python="ssl_password", aiokafka=None
    ),
    ClientKey(
        setting="sasl_mechanism",
        librdkafka="sasl.mechanism",
        kafka_python="sasl_mechanism",
        aiokafka="sasl_mechanism",
        aliases=("sasl.mechanisms",),
    ),
    ClientKey(
        setting="sasl_username",
        librdkafka="sasl.username",
        kafka_python="sasl_plain_username",
        aiokafka="sasl_plain_username",
    ),
    ClientKey(
        setting="sasl_password",
        librdkafka="sasl.password",
        kafka_python="sasl_plain_password",
        aiokafka="sasl_plain_password",
    ),
)

#: What of librdkafka the checkpoint protocol owns, and why `[kafka.librdkafka]` may not set it.
OWNED_KEYS = {
    "transactional.id": "it is made of the pipeline's name, [worker] instance and a slot",
    "transaction.timeout.ms": "set [worker] transaction_timeout_ms instead",
    "session.timeout.ms": "set [worker] session_timeout_ms instead",
    "group.id": "it is the pipeline's name",
    "group.instance.id": "a worker keeps its place by its slot",
    "group.protocol": "the rebalances rely on the classic protocol",
    "partition.assignment.strategy": "it is cooperative, so that only what moves is revoked",
    "auto.offset.reset": "a worker never jumps; where it begins is [topics] start",
    "enable.auto.commit": "offsets are committed with the outputs, in one transaction",
    "enable.auto.offset.store": "offsets are committed with the outputs, in one transaction",
    "enable.partition.eof": "the end of the log is recognised by it",
    "isolation.level": "it is read_committed, or aborted events would be learned",
    "enable.idempotence": "it is on, or a retry could write an output twice",
    "acks": "it is all, or an acknowledged output could be lost",
    "request.required.acks": "it is all, or an acknowledged output could be lost",
}


def refusal(key: str) -> str | None:
    """Say why `[kafka.librdkafka]` may not have this key, or None if it may.

    >>> refusal("sasl.mechanisms")
    'is for all clients: set sasl_mechanism in [kafka] instead.'
    >>> refusal("socket.keepalive.enable") is None
    True
    """
    for row in CLIENT_KEYS:
        if key == row.librdkafka or key in row.aliases:
            return f"is for all clients: set {row.setting} in [kafka] instead."
    if key in OWNED_KEYS:
        return f"can't be set: {OWNED_KEYS[key]}."
    return None


def librdkafka_config(kafka: KafkaSettings) -> dict[str, str]:
    """Return what confluent-kafka takes, `[kafka.librdkafka]` included; it holds the secrets in clear."""
    known = {row.librdkafka: str(value) for row in CLIENT_KEYS if (value := _value(kafka, row)) is not None}
    return known | {key: value.get_secret_value() for key, value in kafka.librdkafka.items()}


def kafka_python_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments for kafka-python's clients; they hold the secrets in clear."""
    return {row.kafka_python: value for row in CLIENT_KEYS if (value := _value(kafka, row)) is not None}


def aiokafka_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments for aiokafka's clients; they hold the secrets in clear."""
    known: dict[str, Any] = {
        row.aiokafka: value
        for row in CLIENT_KEYS
        if row.aiokafka is not None and (value := _value(kafka, row)) is not None
    }
    return known | ({"ssl_context": ssl_context(kafka)} if uses_tls(kafka) else {})


def uses_tls(kafka: KafkaSettings) -> bool:
    """Is the connection encrypted?"""
    return kafka.security_protocol in {"SSL", "SASL_SSL"}


def uses_sasl(kafka: KafkaSettings) -> bool:
    """Does the connection log in with a name and a password?"""
    return kafka.security_protocol in {"SASL_PLAINTEXT", "SASL_SSL"}


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """Build the TLS context that `[kafka]` describes; it verifies the broker's certificate and host name.

    Raises:
        OSError: A file is missing, is not PEM, or its password is wrong (`ssl.SSLError` is one).
    """
    context = ssl.create_default_context(cafile=kafka.ca_file)
    if kafka.certificate_file is not None:
        # Never None: OpenSSL would ask for the password of an encrypted key on the terminal.
        password = kafka.key_password.get_secret_value() if kafka.key_password else ""
        context.load_cert_chain(kafka.certificate_file, kafka.key_file, password)
    return context


def connection_warnings(kafka: KafkaSettings) -> list[str]:
    """Say what is allowed but unwise in a connection, a sentence each; `check` prints them."""
    warnings = []
    if kafka.security_protocol == "SASL_PLAINTEXT":
        secret = "the password" if kafka.sasl_mechanism == "PLAIN" else "the login"
        warnings.append(
            f"[kafka] security_protocol is SASL_PLAINTEXT: {secret} and all records cross the network "
            "in clear; use SASL_SSL outside a trusted network."
        )
    return warnings


def _value(kafka: KafkaSettings, row: ClientKey) -> str | None:
    value = getattr(kafka, row.setting)
    if value is None:
        return None
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
