"""Matrix products by weight format."""
