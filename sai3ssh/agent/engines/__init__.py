"""Storage engines of the agent."""
