"""Devices reached by ssh: which there are, and running a command on one with files in and files out."""
