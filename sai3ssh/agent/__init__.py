"""What runs on a host: daemon, supervisor, workers. Standard library only, Python 3.9 and later."""
