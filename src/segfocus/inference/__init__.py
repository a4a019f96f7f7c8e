"""Predictions at a picture's own size: whole or sliding window, averaged over scales and mirroring."""
