"""Deciding what to keep: importance, budgets, iterative pruning, votes, Meta-Vote Pruning."""
