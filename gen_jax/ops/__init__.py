"""Pure functions of arrays: no network, no state."""
