"""Many tasks from one file: prune, export, benchmark, gate, bundle, report; made for CI."""
