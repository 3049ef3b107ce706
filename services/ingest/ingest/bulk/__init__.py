"""Bulk sending: forms, CSV, columns, chunks, the seal."""
