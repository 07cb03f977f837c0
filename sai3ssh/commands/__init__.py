"""The commands, by theme. Each module has an application of its own; cli.py puts them together."""
