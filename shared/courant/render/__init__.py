"""Rendering: from a template and its values to the email or SMS that the recipient reads."""
