"""The data plane's side of Kafka: the only folder that knows confluent-kafka."""
