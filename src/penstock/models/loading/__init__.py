"""Loads a folder into a module, and checks the module against its reference."""
