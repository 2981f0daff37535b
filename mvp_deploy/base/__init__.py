"""What every other room stands on: errors, files, devices, what is told on the way."""
