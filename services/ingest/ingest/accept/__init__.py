"""Accepts one notification: its checks in order, content, idempotency, and the record."""
