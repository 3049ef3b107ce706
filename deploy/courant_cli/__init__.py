"""The `courant` command."""
