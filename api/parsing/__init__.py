"""Parses a model's text into its reasoning, its tool calls and its answer."""
