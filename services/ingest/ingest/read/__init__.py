"""Reading notifications and templates: the store, their views, lists."""
