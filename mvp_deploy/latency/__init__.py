"""Milliseconds as a cost: profiles measured on a device, what they predict, and plans under a budget of time."""
