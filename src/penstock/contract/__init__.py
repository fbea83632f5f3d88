"""Every type that crosses a process boundary: jobs, events, worker cards, tokenizer calls."""
