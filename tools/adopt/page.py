"""The report as one self-contained HTML page with plots; it loads nothing and runs no script."""

from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from tools.adopt import terminal
from tools.adopt.report import Report

# The page's colours, which follow light and dark; the palette is readable on both and by most colour-blind people.
INK = "currentColor"
PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b07aa1", "#edc948", "#9c755f", "#ff9da7", "#8c8c8c",
           "#86bcb6", "#d37295", "#a0cbe8")  # fmt: skip
WIDTH = 400  # of a plot, which fills the page: labels stay readable on a phone
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
    return [(title, Markup(svg(spec))) for title, spec in drawn]  # vl-convert escapes texts


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


def svg(spec: dict[str, Any]) -> str:
    """Draw a plot in the page's own colours."""
    colours = ("labelColor", "titleColor", "domainColor", "tickColor")
    config = {
        "background": None,
        "view": {"stroke": None},
        "axis": {**dict.fromkeys(colours, INK), "gridColor": INK, "gridOpacity": 0.12, "labelFontSize": 11},
        "legend": {"labelColor": INK, "labelFontSize": 11, "symbolLimit": 14},
    }
    drawn: str = vl_convert.vegalite_to_svg(
        {"width": WIDTH, "background": None, **spec, "config": config}, vl_version="5.20", allowed_base_urls=[]
    )
    return drawn
