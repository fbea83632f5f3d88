"""From a queue's name to a loaded model."""
