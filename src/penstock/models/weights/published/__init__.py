"""Matrices as quantised checkpoints are published, one module a layout, and the values they stand for."""
