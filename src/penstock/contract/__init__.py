"""Every type that crosses a process border: jobs, events, worker cards, tokenizer calls."""
