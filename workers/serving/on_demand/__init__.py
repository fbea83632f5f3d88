"""Models that a worker loads when they are asked for, and unloads for others (docs/adr/0019)."""
