"""Images in prompts: reading them, and the embeddings that a decoder takes for them."""
