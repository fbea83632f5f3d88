"""Live workers and what they serve."""
