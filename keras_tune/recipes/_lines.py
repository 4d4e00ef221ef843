"""Status lines that commands print, before slow steps for example."""

import contextlib
import sys
import warnings


def print_precision(policy, reason):
    """Print which precision was chosen and why, unless the options name it.

    Args:
        policy: String, the dtype policy.
        reason: String, in words that follow "since"; empty if nothing was chosen.
    """
    if reason:
        print(f"precision: {policy}, since {reason}", flush=True)


def print_compiling():
    """Print that the first step is compiled, where the backend does so."""
    import keras

    if keras.backend.backend() != "torch":
        print("compiling the first step …", flush=True)


@contextlib.contextmanager
def plain_warnings():
    """Print warnings of the library, about damaged shards for example, as lines on standard error.

    Those that are meant for programmers, about deprecated functions for example, stay as they are.
    """
    with warnings.catch_warnings():
        show, printed = warnings.showwarning, set()

        def show_plainly(message, category, *rest, **options):
            if category is UserWarning:
                if str(message) not in printed:
                    print(message, file=sys.stderr)
                printed.add(str(message))
            else:
                show(message, category, *rest, **options)

        warnings.showwarning = show_plainly
        yield
