"""Every type that crosses a process border: jobs, events, worker cards, utility calls."""
