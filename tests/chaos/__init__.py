"""Faults on purpose: a fleet under load loses processes and its Redis, and no answer suffers."""
