"""The HTTP edge of ingest: reading requests, answers and their texts, and bounds on clients."""
