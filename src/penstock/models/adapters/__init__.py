"""LoRA adapters: small changes to a model's matrices, chosen by each request."""
