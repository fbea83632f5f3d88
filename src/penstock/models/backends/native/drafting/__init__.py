"""Heads that draft from the hidden states of a native model."""
