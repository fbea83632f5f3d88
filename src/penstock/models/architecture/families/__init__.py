"""One module for each kind of family: from configurations and tensors' names to descriptions."""
