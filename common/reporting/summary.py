"""A run in one sentence, for notices and logs."""

from common.reporting.record import Record
from common.reporting.words import counted, money


def summarize(record: Record) -> str:
    """Return the failure of a run, or else its products or the ends of its funnel, its models, warnings and cost."""
    if record.failure:
        return f"{record.failure.task} failed: {record.failure.sentence}"
    parts = products(record) or funnel(record)
    parts += [
        f"{model.name} ships for {comparison.style} with {comparison.figure} {model.figures[comparison.figure]:.4f}"
        for comparison in record.comparisons
        for model in comparison.models
        if model.chosen and comparison.figure in model.figures
    ]
    if record.warnings:
        parts.append(counted(len(record.warnings), "warning"))
    if cost := sum(each.amount * each.price for each in record.costs):
        parts.append(f"about {money(cost, record.currency)}")
    return f"{'; '.join(parts or [counted(len(record.tasks), 'task')])}."


def products(record: Record) -> list[str]:
    """Return the products that were published, with their keys."""
    return [
        f"{each.product}: {counted(each.keys, 'key')}"
        + (f", {each.own_rows_share:.0%} of users by own rows" if each.own_rows_share is not None else "")
        for each in record.published
        if each.version
    ]


def funnel(record: Record) -> list[str]:
    """Return the first and the last step of the funnel; none without one."""
    ends = [record.funnel[0], record.funnel[-1]] if len(record.funnel) > 1 else record.funnel
    return [f"{step.name}: {step.count:,}" for step in ends]
