"""Pure functions without weights."""
