"""Tasks already pruned: storing them, and finding the nearest to a new one."""
