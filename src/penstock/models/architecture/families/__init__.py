"""A module a kind of family: from its configuration, and its tensors' names, to the description."""
