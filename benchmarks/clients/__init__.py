"""The same small job with each Python client of Kafka, a loop each as its own documentation would have it.

Every loop is started as `python -m benchmarks.clients.NAME SERVERS EVENTS PREDICTIONS COUNT [MODE]`: it reads COUNT
events (0: until it is ended), predicts, learns, writes predictions, and says what that cost.
"""
