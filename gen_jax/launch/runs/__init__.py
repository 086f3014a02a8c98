"""The work directory: layout, steps, resuming, and what it holds."""
