"""Refining the probability maps of any network: the leaderboard of `segfocus refine compare` and what it is made of."""
