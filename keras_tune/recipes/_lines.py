"""Lines that commands print before long work, so that nobody wonders what they wait for."""


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
