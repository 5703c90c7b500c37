"""Every client connects in every way that the settings offer, and only with the right password."""

from __future__ import annotations

import asyncio

import confluent_kafka
import pytest
from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]  # ships no types
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient  # type: ignore[import-untyped]  # kafka-python ships no types

from stream.settings import KafkaSettings
from stream.settings.connection import aiokafka_config, kafka_python_config, librdkafka_config
from tests.integration.conftest import SecureBroker

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("sockets_let_go")]

WAYS = ("tls", "mutual tls", "PLAIN", "SCRAM-SHA-512")


def settings(secure_broker: SecureBroker, way: str) -> KafkaSettings:
    if way == "tls":
        return secure_broker.tls()
    return secure_broker.mutual_tls() if way == "mutual tls" else secure_broker.sasl(way)


@pytest.mark.parametrize("way", WAYS)
def test_confluent_kafka_connects(secure_broker: SecureBroker, way: str) -> None:
    client = AdminClient({**librdkafka_config(settings(secure_broker, way))})

    assert set(client.list_topics(timeout=20).brokers) == {1}


@pytest.mark.parametrize("way", WAYS)
def test_kafka_python_connects(secure_broker: SecureBroker, way: str) -> None:
    client = KafkaAdminClient(**kafka_python_config(settings(secure_broker, way)))
    try:
        assert [broker["broker_id"] for broker in client.describe_cluster()["brokers"]] == [1]
    finally:
        client.close()


@pytest.mark.parametrize("way", WAYS)
def test_aiokafka_connects(secure_broker: SecureBroker, way: str) -> None:
    async def brokers() -> list[int]:
        client = AIOKafkaAdminClient(**aiokafka_config(settings(secure_broker, way)))
        await client.start()
        try:
            return [broker["node_id"] for broker in (await client.describe_cluster())["brokers"]]
        finally:
            await client.close()

    assert asyncio.run(brokers()) == [1]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_refused(
    secure_broker: SecureBroker, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def connect() -> None:
        client = AIOKafkaAdminClient(**aiokafka_config(secure_broker.sasl(mechanism, password="wrong")))
        try:
            await client.start()
        finally:
            await client.close()

    with pytest.raises(KafkaError):
        asyncio.run(connect())

    assert "SaslAuthenticationFailed" in caplog.text


def test_no_certificate_is_refused_where_the_broker_asks_for_one(secure_broker: SecureBroker) -> None:
    address = secure_broker.broker.address("MTLS")
    without = secure_broker.tls().model_copy(update={"bootstrap_servers": address})

    with pytest.raises(confluent_kafka.KafkaException):
        AdminClient({**librdkafka_config(without)}).list_topics(timeout=3)
