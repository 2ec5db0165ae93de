"""Whether new data are like those that a network was trained on, by numbers that describe both."""

Features = dict[str, dict[str, float]]  # by well or photograph, and by the name of a number
SLACK = 0.25  # of the training range, to both sides, before a number is called unlike


def familiar(features: Features) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value of each number."""
    names = next(iter(features.values())).keys()
    values = {name: [own[name] for own in features.values()] for name in names}
    return {name: (min(own), max(own)) for name, own in values.items()}


def unlike(features: Features, known: dict[str, tuple[float, float]]) -> dict[str, str]:
    """For each well or photograph what lies outside the range of the training data, in words."""
    return {name: ", ".join(_odd(own, known)) for name, own in features.items()}


def _odd(own: dict[str, float], known: dict[str, tuple[float, float]]) -> list[str]:
    told = []
    for name, value in own.items():
        low, high = known.get(name, (value, value))  # of an older model, that did not know it
        slack = SLACK * (high - low)
        if not low - slack <= value <= high + slack:
            told.append(f"{name} {value:.3g} (training {low:.3g} to {high:.3g})")
    return told
