"""Redis: everything that processes share."""
