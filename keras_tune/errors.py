"""The one error that a command line prints as a single line, without a traceback."""


class UserError(ValueError):
    """Something the user can mend: a wrong file, key or value.

    Its message is one line which names the culprit and the mend. The command lines print it and
    exit with status 1 (2 for what is wrong on the command line itself).

    Example:

    ```python
    raise UserError(f"{path}: no such folder. Give --data a folder that `prepare` has written.")
    ```
    """

    def __init__(self, message):
        super().__init__(" ".join(str(message).split()))
