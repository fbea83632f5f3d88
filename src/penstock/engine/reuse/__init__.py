"""Computed prompts beyond the blocks in a model's own memory."""
