"""From a template and its values to what the recipient reads."""
