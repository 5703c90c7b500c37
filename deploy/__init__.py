"""What runs Headrace in production: alert rules, dashboards, files for containers. No part of the wheel."""
