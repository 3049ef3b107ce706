"""Reading notifications and templates: the store, how a row is shown, lists."""
