"""Checkpoints made and read by the reference libraries of their formats: `make test-references`."""
