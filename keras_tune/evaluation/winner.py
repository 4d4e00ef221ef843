"""Which probe a model is built from."""


def winning_head(study, name, protocols):
    """The probe that was best on valid, among those that are a linear map or a small network.

    Scores of test have no say in it. Where the study cross-validates there is no such probe: each
    was trained for one fold.

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
    return max(candidates, key=lambda one: one[1].valid_score, default=None)
