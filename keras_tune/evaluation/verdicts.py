"""What the differences between a representation and its yardsticks allow to say."""


def verdicts(reports):
    """Say for each yardstick whether the representation judged beats it.

    Args:
        reports: Dict from representation to report, the representation judged first.

    Returns:
        List of sentences.
    """
    first = next(iter(reports))
    sentences = []
    for name, report in reports.items():
        found = report.get(f"{first}_minus_this")
        if found is None:
            continue
        low, high = found["interval_95"]
        if low > 0:
            verdict = f"{first} beats {name}"
        elif high < 0:
            verdict = f"{first} is worse than {name}"
        else:
            verdict = f"{first} does not clearly differ from {name}"
        sentences.append(
            f"- {verdict}: difference {found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]."
        )
    return sentences
