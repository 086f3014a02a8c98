"""Pages of runs: one self-contained HTML file, without a server and without JAX."""
