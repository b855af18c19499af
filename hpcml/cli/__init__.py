"""The command line: one file a command; parses, builds, runs, prints."""
