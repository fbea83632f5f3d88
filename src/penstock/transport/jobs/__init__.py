"""Queues of jobs, their leases and journals."""
