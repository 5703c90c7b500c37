"""Grafana's dashboards, built from the list of metrics: `panels` says what there can be, `build` what there is."""
