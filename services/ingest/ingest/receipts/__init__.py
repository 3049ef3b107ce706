"""Receipts from providers: checks SNS signatures and classifies events."""
