"""The deliverer: claims what is stored, sends it, and reports what came of it."""
