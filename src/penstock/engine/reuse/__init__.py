"""What is known of computed prompts beyond the blocks in a model's own memory."""
