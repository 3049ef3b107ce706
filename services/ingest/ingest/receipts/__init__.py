"""Receipts from providers: SNS signatures, what an event means."""
