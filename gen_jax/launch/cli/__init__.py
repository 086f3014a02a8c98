"""The command line: flags, and which command they are for."""
