"""Workload files: YAML to a validated plan."""
