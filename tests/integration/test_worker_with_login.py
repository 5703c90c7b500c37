"""A worker through TLS: with a login, and with a certificate of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.settings import KafkaSettings
from tests.integration.conftest import SecureBroker
from tests.support import KafkaCase, labelled

pytestmark = pytest.mark.integration


def section(kafka: KafkaSettings, **secrets: Any) -> dict[str, Any]:
    """`[kafka]` as a settings file has it."""
    given = kafka.model_dump(exclude_defaults=True, exclude={"sasl_password", "librdkafka"})
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()} | secrets


def test_a_worker_logs_in_with_scram_over_tls_or_shows_its_certificate(
    secure_broker: SecureBroker, tmp_path: Path, topic_name: str
) -> None:
    """The password comes from the environment; it reaches neither the settings file nor the logs."""
    login = section(secure_broker.sasl("SCRAM-SHA-512"))
    certificate = section(secure_broker.mutual_tls())
    with KafkaCase(
        secure_broker.broker.bootstrap_servers,
        tmp_path,
        topic_name,
        kafka=login | {"sasl_password": secure_broker.password},
    ) as case:
        case.settings_file.write_text(
            "\n".join(
                line for line in case.settings_file.read_text().splitlines() if "sasl_password" not in line
            )
        )
        case.send(labelled(number) for number in range(50))
        worker = case.run_to_end(HEADRACE_KAFKA__SASL_PASSWORD=secure_broker.password)
        assert secure_broker.password not in worker.stderr

        case.change(kafka=certificate)
        case.send(labelled(number) for number in range(50, 100))
        case.run_to_end()

        assert case.assert_exactly_once() == 100
