"""Which workers live and what they serve."""
