"""The report as one self-contained HTML page with plots; it loads nothing and runs no script."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from common.reporting.charts import PALETTE, svg
from tools.adopt import terminal
from tools.adopt.report import Report

MAX_LABEL = 40  # characters of a type's name in a plot


def write(report: Report, path: Path) -> None:
    """Write the page of a report."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    page = environment.get_template("page.html").render(
        report=report, layout=terminal.layout_text(report), types=terminal.type_rows(report), plots=plots(report)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf-8")


def plots(report: Report) -> list[tuple[str, Markup]]:
    """Return the titles and drawings of the plots."""
    if not report.events:
        return []
    order = [label for label, _ in report.activity["user_id"]]
    drawn = [(f"Events by {report.period} and type", _by_period(report))]
    for column, name in (("user_id", "Users"), ("item_id", "Items")):
        values = [{"events": label, "count": count} for label, count in report.activity[column]]
        drawn.append((f"{name} by their number of events", _bars(values, order)))
    return [(title, svg(spec)) for title, spec in drawn]


def _by_period(report: Report) -> dict[str, Any]:
    values = [{"day": str(day), "type": name[:MAX_LABEL], "events": events} for day, name, events in report.by_period]
    return {
        "height": 220,
        "data": {"values": values},
        "mark": {"type": "area", "interpolate": "step-after"} if len({value["day"] for value in values}) > 3 else "bar",
        "encoding": {
            "x": {"field": "day", "type": "temporal", "title": None},
            "y": {"field": "events", "type": "quantitative", "stack": True, "title": None},
            "color": {
                "field": "type",
                "type": "nominal",
                "scale": {"range": list(PALETTE)},
                "legend": {"orient": "bottom", "columns": 2, "columnPadding": 24, "title": None, "labelLimit": 180},
            },
        },
    }


def _bars(values: list[dict[str, Any]], order: list[str]) -> dict[str, Any]:
    return {
        "height": 180,
        "data": {"values": values},
        "mark": {"type": "bar", "color": PALETTE[0]},
        "encoding": {
            "x": {"field": "events", "type": "ordinal", "sort": order, "title": "events", "axis": {"labelAngle": -30}},
            "y": {"field": "count", "type": "quantitative", "title": None},
        },
    }
