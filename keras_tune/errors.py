"""The error that command lines print as a single line, without a traceback."""


class UserError(ValueError):
    """Something that the user can fix: a wrong file, key or value.

    Its message is one line that names what is wrong and how to fix it. The command lines print it
    and exit with status 1 (2 for errors of the command line itself).

    Example:

    ```python
    from keras_tune.errors import UserError

    try:
        raise UserError("music: no such folder;  give another")
    except ValueError as error:
        str(error)  # "music: no such folder; give another"
    ```
    """

    def __init__(self, message: object):
        super().__init__(" ".join(str(message).split()))
