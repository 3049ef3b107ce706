"""Accepting one notification: checks in their order, content, idempotency, the record."""
