"""Measuring latency fairly: one runner per runtime, taking turns in one process. Needs numpy alone."""
