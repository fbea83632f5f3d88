"""The backends: one package or module for each way of computing a model."""
