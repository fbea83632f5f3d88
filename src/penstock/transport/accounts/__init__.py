"""API keys, limits, quotas and the usage log."""
