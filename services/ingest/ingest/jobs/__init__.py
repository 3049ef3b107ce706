"""Jobs as their owners see them: status, commands, reports."""
