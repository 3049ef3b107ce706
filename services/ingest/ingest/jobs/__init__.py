"""Jobs as their owners see them: state, commands, reports."""
