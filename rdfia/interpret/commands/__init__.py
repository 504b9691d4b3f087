"""The subcommands of visualize.py: each checks its flags and returns what does the work."""
