"""Which way the metrics in a run's records are better, for all that compare them."""

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "phoneme_error_rate"})


def gain(name: str, value: float) -> float:
    """``value`` on a scale where more is better; of a metric that is not known, more is."""
    return -value if name in LOWER_IS_BETTER else value
