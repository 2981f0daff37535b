"""What every other room stands on: errors, files, devices, progress."""
