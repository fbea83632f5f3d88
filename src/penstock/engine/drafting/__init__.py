"""Speculation: which tokens are drafted, and how many pay."""
