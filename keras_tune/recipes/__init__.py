"""The command lines: `keras-tune NAME --help`.

The function `cli` of a module takes a list of options, by default those of the command line.
"""
