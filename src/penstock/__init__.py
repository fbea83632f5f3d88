"""Penstock: a self-hosted LLM serving fleet for Intel machines."""

__version__ = "0.1.0"
