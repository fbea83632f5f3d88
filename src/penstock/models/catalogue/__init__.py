"""The available models, their backends and formats, and their memory needs."""
