"""What a person does around a pipeline: check it, make its topics, send events, watch and ask.

The tools speak to Kafka through kafka-python, an implementation of the protocol that the data plane does not use.
"""
