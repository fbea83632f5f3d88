"""Finds the model that a queue's name means, and loads it."""
