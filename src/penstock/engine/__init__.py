"""The engine: requests in, one step after another, events out. Knows no model library."""
