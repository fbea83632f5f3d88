"""What a model has written, told apart: its reasoning, its calls of tools, its answer."""
