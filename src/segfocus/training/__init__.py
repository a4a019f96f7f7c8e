"""Training: `run` reads top to bottom; the other files are its tools."""
