"""Self-contained HTML: no network, no JavaScript, light and dark, down to 400 pixels of width."""
