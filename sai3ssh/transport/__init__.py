"""Ways to reach a host: SSH and local."""
