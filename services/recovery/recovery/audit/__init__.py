"""The audit: proves that every accepted id is a row, an alias or a dead letter."""
