"""Results of a run: load, merge, tables."""
