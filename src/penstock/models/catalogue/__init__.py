"""Which models there are, how each is held, and how much memory it takes."""
