"""Tokenizers and chat templates, and the dialect that they reveal."""
