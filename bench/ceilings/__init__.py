"""The ceilings: the least work that each part could do, as fast as this machine does it."""
