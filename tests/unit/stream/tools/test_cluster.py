from __future__ import annotations

import pytest
from kafka import errors  # type: ignore[import-untyped]  # kafka-python ships no types

from stream.errors import EnvironmentRefused
from stream.settings import Settings
from stream.tools.cluster import sentences

SETTINGS = Settings.model_validate(
    {
        "name": "p",
        "task": "binary",
        "kafka": {"bootstrap_servers": "kafka.example:9092"},
        "topics": {"events": "clicks"},
        "learner": {"use": "logistic-regression"},
    }
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.KafkaTimeoutError("x"), "no broker answered at kafka.example:9092 within 3 s while reading"),
        (errors.SaslAuthenticationFailedError("no"), "refuses the login"),
        (errors.TopicAuthorizationFailedError("clicks"), "refuses permission for reading"),
        (
            errors.UnsupportedCodecError("Libraries for zstd compression codec not found"),
            "pip install zstandard",
        ),
        (errors.UnknownTopicOrPartitionError(), "headrace topics create settings.toml"),
        (errors.InvalidReplicationFactorError("3 > 1"), "--replication-factor"),
        (errors.NotLeaderForPartitionError("odd"), "reading at kafka.example:9092 failed"),
    ],
)
def test_an_error_of_the_client_becomes_a_sentence_with_what_to_do(error: Exception, words: str) -> None:
    with pytest.raises(EnvironmentRefused) as caught, sentences(SETTINGS, "reading", 3):
        raise error

    assert words in str(caught.value)


def test_a_mistake_of_our_own_stays_what_it_is() -> None:
    with pytest.raises(KeyError), sentences(SETTINGS, "reading"):
        raise KeyError
