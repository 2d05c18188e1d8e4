"""The rule by which a figure of a run is called unusual: far from the same figure of earlier runs."""

from statistics import median

from common.reporting.record import Record

RULE = (
    "A figure is marked as unusual if it is further from the median of up to 30 earlier successful runs of the same "
    "kind than 5 times their usual deviation (1.4826 times the median distance from the median), and by more than 1 %; "
    "at least 8 such runs are needed."
)
LEAST, MOST = 8, 30  # earlier runs
DEVIATIONS = 5
SIGMA = 1.4826  # of a normal distribution, in median distances from the median
SHARE = 0.01  # of the median


def find(record: Record, history: list[Record]) -> dict[tuple[str, str], str]:
    """Return a sentence for each unusual figure of a run, by task and name."""
    former = former_values(record, history)
    judged = {key: judge(value, former[key]) for key, value in values_of(record).items()}
    return {key: sentence for key, sentence in judged.items() if sentence}


def values_of(record: Record) -> dict[tuple[str, str], float]:
    """Return the values of a run's figures by task and name; of two with one name the first."""
    return {(figure.task, figure.name): figure.value for figure in reversed(record.figures)}


def former_values(record: Record, history: list[Record]) -> dict[tuple[str, str], list[float]]:
    """Return the values of a run's figures in earlier successful runs of its kind, oldest first, by task and name."""
    values: dict[tuple[str, str], list[float]] = {(figure.task, figure.name): [] for figure in record.figures}
    earlier = [
        each
        for each in history
        if each.state == "succeeded" and each.kind == record.kind and each.run_after < record.run_after
    ]
    for each in sorted(earlier, key=lambda each: each.run_after)[-MOST:]:
        for figure in each.figures:
            if (figure.task, figure.name) in values:
                values[figure.task, figure.name].append(figure.value)
    return values


def judge(value: float, former: list[float]) -> str | None:
    """Return the sentence about an unusual value; None if it is usual, or too few are known."""
    if len(former) < LEAST:
        return None
    middle = median(former)
    usual = max(DEVIATIONS * SIGMA * median(abs(each - middle) for each in former), SHARE * abs(middle))
    if abs(value - middle) <= usual:
        return None
    least = middle - usual if min(former) < 0 else max(0.0, middle - usual)
    return (
        f"Unusual: the median of {len(former)} earlier runs is {middle:,.4g}, and {least:,.4g} to "
        f"{middle + usual:,.4g} is usual."
    )
