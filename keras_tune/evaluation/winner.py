"""Which probe a model is built from."""

import math


def winning_head(study, name, protocols):
    """The probe that did best on valid, among those that are a linear map or a small network.

    Scores of test have no say in it. Protocols choose among 2, 6 or 216 candidates, and the best of
    216 scores on valid is too high by more than the best of 2: protocols are compared by
    `cross_fitted_score`, on halves of valid that did not choose. Where the study cross-validates
    there is no such probe: each was trained for one fold.

    Args:
        study: `Study`, whose protocols were judged.
        name: String, the representation.
        protocols: List of the protocols to look at.

    Returns:
        Pair of the protocol and a `FittedProbe` with a `head`, or None.

    Example:

    ```python
    protocol, probe = winning_head(study, "pretrained", ["grid", "logistic"])
    ```
    """
    if study.cross_validated:
        return None
    candidates = [
        (protocol, run.probe)
        for protocol in protocols
        for run in study.outcomes[protocol, name].runs
        if run.probe.head is not None
    ]
    return max(candidates, key=_merit, default=None)


def _merit(candidate):
    """What is compared; where valid is too small for it, the score on all of valid decides."""
    _, probe = candidate
    score = probe.cross_fitted_score
    return (score if math.isfinite(score) else -math.inf, probe.valid_score)
