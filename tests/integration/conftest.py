"""A broker with encryption and logins, and a web service that takes notifications."""

from __future__ import annotations

import gc
import json
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from stream.broker import Broker
from stream.settings import KafkaSettings
from tests.conftest import TEST_JAVA_OPTIONS

USER = "alice"
PASSWORD = "s3cret, with: odd 'signs'=ü"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureBroker:
    """A broker whose certificates and logins come from a certificate authority of this test session."""

    broker: Broker
    #: Certificate (PEM) of the authority that signed the broker's certificate.
    ca_file: Path
    #: The client's certificate and key (PEM), signed by the same authority.
    certificate_file: Path
    key_file: Path
    user: str
    password: str

    def tls(self) -> KafkaSettings:
        """Encrypted; the broker doesn't ask who we are."""
        return KafkaSettings(
            bootstrap_servers=self.broker.address("TLS"), security_protocol="SSL", ca_file=self.ca_file
        )

    def mutual_tls(self) -> KafkaSettings:
        """Encrypted; the broker asks for our certificate."""
        return KafkaSettings(
            bootstrap_servers=self.broker.address("MTLS"),
            security_protocol="SSL",
            ca_file=self.ca_file,
            certificate_file=self.certificate_file,
            key_file=self.key_file,
        )

    def sasl(self, mechanism: str, password: str | None = None) -> KafkaSettings:
        """Encrypted, with a name and a password; `mechanism` is PLAIN or SCRAM-SHA-512."""
        return KafkaSettings.model_validate(
            {
                "bootstrap_servers": self.broker.address("SASL"),
                "security_protocol": "SASL_SSL",
                "ca_file": self.ca_file,
                "sasl_mechanism": mechanism,
                "sasl_username": self.user,
                "sasl_password": self.password if password is None else password,
            }
        )


@pytest.fixture(scope="session")
def secure_broker(kafka_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """TLS, mutual TLS, and SASL (PLAIN and SCRAM-SHA-512) over TLS, each at an address of its own."""
    from kafka import KafkaAdminClient  # type: ignore[import-untyped]  # kafka-python ships no types
    from kafka.admin import UserScramCredentialUpsertion  # type: ignore[import-untyped]

    folder = tmp_path_factory.mktemp("secure-broker")
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("alice@example.org")
    ca_file, certificate_file, key_file = folder / "ca.pem", folder / "client.pem", folder / "client.key"
    authority.cert_pem.write_to_path(ca_file)
    certificate_file.write_text(_chain(client))
    key_file.write_text(_key(client))
    quoted = PASSWORD.replace("\\", "\\\\").replace('"', '\\"')
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.certificate.chain": _chain(server),
        "ssl.keystore.key": _key(server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.certificates": authority.cert_pem.bytes().decode(),
        "listener.name.mtls.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.sasl.plain.sasl.jaas.config": (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{quoted}";'
        ),
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    listeners = {"TLS": "SSL", "MTLS": "SSL", "SASL": "SASL_SSL"}
    with Broker(
        folder / "data",
        port=0,
        heap_mb=256,
        properties=properties,
        listeners=listeners,
        java_options=TEST_JAVA_OPTIONS,
    ) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion(USER, "SCRAM-SHA-512", PASSWORD)])
        admin.close()
        yield SecureBroker(
            broker=broker,
            ca_file=ca_file,
            certificate_file=certificate_file,
            key_file=key_file,
            user=USER,
            password=PASSWORD,
        )


def _chain(certificate: trustme.LeafCert) -> str:
    return "".join(part.bytes().decode() for part in certificate.cert_chain_pems)


def _key(certificate: trustme.LeafCert) -> str:
    """Kafka reads PKCS#8 only, trustme writes the traditional format."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def sockets_let_go() -> Iterator[None]:
    """What clients and servers of others leave open when their loop ends is collected here, not in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Web(ThreadingHTTPServer):
    """A web service that keeps what it is sent, and does with it what the test says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        #: Answers to give before those that are fine; 0: none at all, until the test is over.
        self.answers: list[int] = []
        self.asked = 0
        self.over = threading.Event()

    def url(self, rest: str = "") -> str:
        return f"json://me:s3cret@127.0.0.1:{self.server_port}/s3cret-path{rest}"


class _Handler(BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == 0:
            self.server.over.wait(30)
            self.close_connection = True
            return
        if answer == 200:
            self.server.bodies.append(json.loads(body))
        self.send_response(answer)
        if answer == 302:
            self.send_header("Location", "/login")
        text = b"ok" if answer == 200 else b""  # what Slack says, too
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()
