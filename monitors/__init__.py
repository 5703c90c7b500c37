"""What watches: prequential metrics and drift detectors, pure Python over River. Knows nothing of Kafka."""
