"""An entry of the index page: the few facts of a run that the page over all runs shows."""

from datetime import datetime

import msgspec

from common.reporting.record import Published, Record


class IndexEntry(msgspec.Struct, omit_defaults=True):
    """A run of a pipeline, small enough that thousands fit into one document and one page."""

    dag: str
    run: str
    kind: str
    run_after: datetime
    state: str
    environment: str = ""
    until: str | None = None
    began: datetime | None = None
    ended: datetime | None = None
    sentence: str | None = None  # of the failure
    warnings: int = 0
    figure: str = ""  # the name of the run's key figure, such as ndcg or rows
    value: float | None = None
    published: list[Published] = []
    card: str = ""  # path of the card, relative to the index page


def entry_of(record: Record, card: str) -> IndexEntry:
    """Return the entry of a run; its key figure is the quality of the chosen model, or else the size of its result."""
    figure, value = key_figure(record)
    return IndexEntry(
        dag=record.dag,
        run=record.run,
        kind=record.kind,
        run_after=record.run_after,
        state=record.state,
        environment=record.environment,
        until=record.until,
        began=record.began,
        ended=record.ended,
        sentence=record.failure.sentence if record.failure else None,
        warnings=len(record.warnings),
        figure=figure,
        value=value,
        published=record.published,
        card=card,
    )


def key_figure(record: Record) -> tuple[str, float | None]:
    """Return the name and value of the figure that tells most about a run."""
    for comparison in record.comparisons:
        for model in comparison.models:
            if model.chosen and comparison.figure in model.figures:
                return comparison.figure, model.figures[comparison.figure]
    if rows := sum(published.rows for published in record.published):
        return "rows published", float(rows)
    if record.funnel:
        return record.funnel[-1].name, float(record.funnel[-1].count)
    return "", None
