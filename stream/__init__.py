"""What knows of topics, offsets and time: settings, records, the pipeline, the worker and the command line."""
