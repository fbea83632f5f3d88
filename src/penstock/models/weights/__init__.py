"""Quantised weights for all backends: from checkpoints, and from converted files."""
