"""How to reach the brokers: `[kafka]`, and what each client calls its keys.

A connection is described once, in the settings; librdkafka (data plane), kafka-python (tools) and aiokafka
(control plane) each get it in their own words. No client is imported here.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from stream.settings.values import File, Problem, Secret, Section, Text, refuse, secret_from_file
from stream.settings.words import Expected, expected


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


def _librdkafka(value: object) -> object:
    """Flatten what TOML's unquoted dotted keys nest, and write values as librdkafka takes them."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, SecretStr] = {}
    problems: list[Problem] = []
    for key, item in _flattened(value):
        if isinstance(item, SecretStr):
            flat[key] = item
        elif isinstance(item, str | int | float):
            flat[key] = SecretStr(str(item).lower() if isinstance(item, bool) else str(item))
        else:
            problems.append(((key,), "has the wrong type; expected a text, a number, true or false."))
        if (reason := refusal(key)) is not None:
            problems.append(((key,), reason))
    refuse(problems)
    return flat


def _flattened(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


class KafkaSettings(Section):
    """How every client reaches the brokers. Relative paths are relative to the settings file's folder."""

    bootstrap_servers: Annotated[
        str,
        Field(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$"),
        Expected("host:port, or several with commas between"),
    ] = Field(default="127.0.0.1:9092", description="Brokers to ask first, `host:port`, with commas between.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="Encryption (`SSL`, `SASL_SSL`) and login (`SASL_PLAINTEXT`, `SASL_SSL`).",
    )
    ca_file: File | None = Field(
        default=None,
        description="Certificates (PEM) of the authority that signed the brokers'; without it, the system's.",
    )
    certificate_file: File | None = Field(
        default=None, description="The client's own certificate (PEM), where the brokers ask for one."
    )
    key_file: File | None = Field(default=None, description="The key (PEM) of `certificate_file`.")
    key_password_file: File | None = Field(default=None, description="File that holds `key_password`.")
    key_password: Secret | None = Field(
        default=None,
        validate_default=True,
        description="Password of `key_file`; better from environment or file.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to log in."
    )
    sasl_username: Text | None = Field(default=None, description="Name to log in with.")
    sasl_password_file: File | None = Field(default=None, description="File that holds `sasl_password`.")
    sasl_password: Secret | None = Field(
        default=None,
        validate_default=True,
        description="Password to log in with; better from environment or file.",
    )
    # Text as librdkafka takes it ("true", "5"), and secret: some of its keys are passwords.
    librdkafka: Annotated[dict[str, SecretStr], BeforeValidator(_librdkafka), Expected("a table")] = Field(
        default_factory=dict,
        description="Anything else for the data plane's client, under librdkafka's own names, as a table "
        "`[kafka.librdkafka]`; what the commit protocol relies on is refused.",
    )

    _read_secret = field_validator("key_password", "sasl_password", mode="before")(secret_from_file)

    @model_validator(mode="after")
    def _check(self) -> KafkaSettings:
        problems: list[Problem] = []
        protocol = self.security_protocol
        if not uses_tls(self):
            problems.extend(
                ((key,), f"is given, but security_protocol is {protocol}; expected SSL or SASL_SSL.")
                for key in ("ca_file", "certificate_file", "key_file", "key_password")
                if getattr(self, key) is not None
            )
        else:
            if self.certificate_file is not None and self.key_file is None:
                problems.append((("key_file",), "is missing; certificate_file needs it."))
            if self.key_file is not None and self.certificate_file is None:
                problems.append((("certificate_file",), "is missing; key_file needs it."))
            if self.key_password is not None and self.key_file is None:
                problems.append((("key_password",), "is given, but there is no key_file."))
        for key in ("sasl_mechanism", "sasl_username", "sasl_password"):
            given = getattr(self, key) is not None
            if uses_sasl(self) and not given:
                words = expected(type(self).model_fields[key])
                problems.append(((key,), f"is missing; security_protocol {protocol} needs {words}."))
            elif given and not uses_sasl(self):
                problems.append(
                    (
                        (key,),
                        f"is given, but security_protocol is {protocol}; expected SASL_SSL.",
                    )
                )
        if not problems and uses_tls(self):
            try:
                ssl_context(self)
            except OSError as error:  # ssl.SSLError is one
                reason = getattr(error, "reason", None) or error.strerror or str(error)
                text = f"can't be used for TLS ({reason}); expected PEM files that fit each other."
                keys = [key for key in ("ca_file", "certificate_file", "key_file") if getattr(self, key)]
                problems.append(
                    ((keys[0] if keys else "security_protocol",), f"{text} Looked at: {', '.join(keys)}.")
                )
        refuse(problems)
        return self


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
