"""The command lines: `keras-tune NAME --help`."""
