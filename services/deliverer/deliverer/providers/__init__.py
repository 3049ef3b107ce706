"""The providers, one a file: each sends a call and returns one outcome for each entry."""
