"""GGUF files: what they hold, and the configuration of the model in them. Imports no torch."""
