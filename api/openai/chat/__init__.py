"""/v1/chat/completions and /v1/completions: from a body to a plan, from events to chunks."""
