"""Self-contained HTML: no network, sorted by a click, light and dark, down to 400 pixels of width."""
