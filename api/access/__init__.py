"""Who calls and what it may do: keys, the caller's rights, what a request costs."""
