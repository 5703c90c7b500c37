"""The control plane at work: reads the topics, watches, tells people, serves the dashboard. All its I/O is here."""
