"""The least that each part could do, as fast as this machine does it."""
