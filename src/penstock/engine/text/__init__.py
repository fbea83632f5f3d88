"""From token ids to text that may be sent."""
