"""Everything that processes share, kept in Redis."""
