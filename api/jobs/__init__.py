"""The jobs that requests are made of: from submission to the last event. Knows no protocol."""
