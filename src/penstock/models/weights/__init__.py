"""Quantised weights, whoever computes with them: from checkpoints, and from files of their own."""
