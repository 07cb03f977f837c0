"""Live display."""
