"""What computes a model: one package or module a backend."""
