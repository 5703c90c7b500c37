"""What learns: River estimators by name or by your own function. Knows nothing of Kafka."""
