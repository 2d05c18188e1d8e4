"""Charts of pages, drawn by Vega-Lite as SVG in the colours of the page that contains them."""

from collections.abc import Sequence
from typing import Any

import vl_convert
from markupsafe import Markup

from common.reporting.words import cut

INK = "currentColor"
# Readable on light and dark, and by most colour-blind people.
PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#b07aa1", "#edc948", "#9c755f", "#ff9da7", "#8c8c8c",
           "#86bcb6", "#d37295", "#a0cbe8")  # fmt: skip
SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))  # of the page's style
WIDTH = 400  # of a chart that fills the page: labels stay readable on a phone
Spec = dict[str, Any]
# Phases of a task on the time axis; the colours are variables of the page's style.
WAITING, STARTING, WORKING, FAILED = "waiting", "starting", "working", "failed or lost"
PHASES = {
    WAITING: "var(--waiting)",
    STARTING: "var(--starting)",
    WORKING: "var(--working)",
    FAILED: "var(--problem)",
}
ROW = 26  # points of a row with a label
MINUTES, DAYS = 5 * 60_000, 36 * 3_600_000  # milliseconds of a time axis that shows seconds, and of one without days
LETTER = 7.2  # points of a letter: the page's font is not known here, so labels get their room by number of letters
END_LABEL = 70  # points of the label after the last bar of a time axis
BOLD = 7.9  # points of a letter of a box's name
# Kinds of a lineage's nodes.
KINDS = {
    "product": "var(--good)",
    "task": "var(--accent)",
    "dataset": "var(--series-4)",
    "deliveries": "var(--check)",
}
LEVEL, BOX = 78, 46  # points from one row of a graph to the next, and of a box in it
MIN_BOX = 116  # points of the narrowest box, with its margin


def svg(spec: Spec) -> Markup:
    """Draw a chart in the page's own colours; its texts are escaped."""
    colours = ("labelColor", "titleColor", "domainColor", "tickColor")
    config = {
        "aria": False,  # the page has the text
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "text": {"fill": INK},
        "axis": {**dict.fromkeys(colours, INK), "gridColor": INK, "gridOpacity": 0.12, "labelFontSize": 11},
        "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 11, "symbolLimit": 14},
    }
    return Markup(
        vl_convert.vegalite_to_svg(
            {"width": WIDTH, "background": None, **spec, "config": config}, vl_version="5.20", allowed_base_urls=[]
        )
    )


def label_axis(labels: list[str], limit: int) -> Spec:
    """Return a vertical axis of labels, with room for them up to a limit."""
    return {
        "title": None,
        "ticks": False,
        "domain": False,
        "labelFontSize": 12,
        "labelPadding": 8,
        "labelLimit": limit,
        "minExtent": min(limit + 8, max(len(label) for label in labels) * LETTER + 8),
    }


def time_axis(bars: list[Spec], names: list[str], width: int, label_width: int) -> Markup:
    """Draw the phases of tasks: `bars` have task, phase, begin and end in milliseconds, and the label of their end."""
    y = {"field": "task", "type": "nominal", "sort": names, "scale": {"domain": names}}
    ends = [bar["end"] for bar in bars]
    begins = [bar["begin"] for bar in bars]
    span = max(ends) - min(begins)
    room = span * END_LABEL / (width - label_width - END_LABEL)
    clock = "%H:%M:%S" if span < MINUTES else "%H:%M" if span < DAYS else "%m-%d %H:%M"
    x: Spec = {"type": "temporal", "scale": {"type": "utc", "domain": [min(begins), max(ends) + room], "nice": False}}
    phases = {phase: colour for phase, colour in PHASES.items() if any(bar["phase"] == phase for bar in bars)}
    bar = {
        "mark": {"type": "bar", "height": 14},
        "encoding": {
            "x": {
                **x,
                "field": "begin",
                "axis": {"title": None, "format": clock, "labelOverlap": True, "tickCount": width // 110},
            },
            "x2": {"field": "end"},
            "y": {**y, "axis": label_axis(names, label_width)},
            "color": {
                "field": "phase",
                "type": "nominal",
                "scale": {"domain": list(phases), "range": list(phases.values())},
                "legend": {"orient": "top", "title": None, "symbolType": "square", "offset": 8},
            },
        },
    }
    text = {
        "transform": [{"filter": "isValid(datum.label)"}],
        "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 11},
        "encoding": {"x": {**x, "field": "end"}, "y": y, "text": {"field": "label"}},
    }
    return svg(
        {
            "width": width,
            "height": {"step": ROW},
            "autosize": {"type": "fit-x", "contains": "padding"},
            "data": {"values": bars},
            "layer": [bar, text],
        }
    )


def sparkline(values: Sequence[float | None], limits: list[float], unusual: bool = False) -> Markup:
    """Draw a number over runs, oldest first, with its last value as a dot and limits that are near as lines."""
    points = [{"run": number, "value": value} for number, value in enumerate(values) if value is not None]
    found = [point["value"] for point in points]
    low, high = min(found), max(found)
    span = (high - low) or abs(high) or min((abs(limit) for limit in limits if limit), default=1.0)
    near = [{"limit": limit} for limit in limits if low - span <= limit <= high + span]
    ends = [low, high, *(each["limit"] for each in near)]
    scale = {"domain": [min(ends) - 0.1 * span, max(ends) + 0.1 * span], "nice": False, "zero": False}
    x = {"field": "run", "type": "quantitative", "axis": None, "scale": {"domain": [0, max(len(values) - 1, 1)]}}
    y = {"field": "value", "type": "quantitative", "axis": None, "scale": scale}
    colour = "var(--check)" if unusual else "var(--accent)"
    return svg(
        {
            "width": 132,
            "height": 22,
            "padding": 3,
            "data": {"values": points},
            "layer": [
                {
                    "data": {"values": near},
                    "mark": {"type": "rule", "color": "var(--problem)", "strokeDash": [3, 2]},
                    "encoding": {"y": {**y, "field": "limit"}},
                },
                {
                    "mark": {"type": "line", "color": INK, "strokeWidth": 1.25, "opacity": 0.6},
                    "encoding": {"x": x, "y": y},
                },
                {
                    "transform": [{"filter": f"datum.run == {points[-1]['run']}"}],
                    "mark": {"type": "point", "filled": True, "color": colour, "opacity": 1, "size": 36},
                    "encoding": {"x": x, "y": y},
                },
            ],
        }
    )


def parts(counts: list[Spec], whole: int) -> Markup:
    """Draw the parts of a number as one bar, which a rest leaves open; `counts` have name, count and colour."""
    return svg(
        {
            "width": 600,
            "height": 16,
            "padding": 0,
            "data": {"values": [{**count, "place": place} for place, count in enumerate(counts)]},
            "mark": {"type": "bar", "stroke": "var(--paper)", "strokeWidth": 1},
            "encoding": {
                "x": {
                    "field": "count",
                    "type": "quantitative",
                    "axis": None,
                    "scale": {"domain": [0, whole], "nice": False},
                },
                "color": {"field": "colour", "type": "nominal", "scale": None},
                "order": {"field": "place"},
            },
        }
    )


def intervals(models: list[Spec], figure: str) -> Markup:
    """Draw models by a figure with its interval; `models` have name, value, low, high and chosen, the best first."""
    y = {
        "field": "name",
        "type": "nominal",
        "sort": None,
        "axis": label_axis([model["name"] for model in models], 130),
    }
    colour = {
        "field": "chosen",
        "type": "nominal",
        "scale": {"domain": [True, False], "range": ["var(--accent)", "var(--muted)"]},
        "legend": None,
    }
    x = {
        "type": "quantitative",
        "scale": {"zero": False, "padding": 8},
        "axis": {"title": figure, "tickCount": 4, "labelOverlap": True},
    }
    return svg(
        {
            "height": {"step": ROW},
            "autosize": {"type": "fit-x", "contains": "padding"},
            "data": {"values": models},
            "encoding": {"y": y, "color": colour},
            "layer": [
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                    "encoding": {"x": {**x, "field": "value"}},
                },
            ],
        }
    )


def groups(values: list[Spec], order: list[str], models: list[str], figure: str) -> Markup:
    """Draw a figure by group of users or items, one dot per model; `values` have model, group and value."""
    return svg(
        {
            "height": {"step": ROW},
            "autosize": {"type": "fit-x", "contains": "padding"},
            "data": {"values": values},
            "encoding": {
                "x": {
                    "field": "value",
                    "type": "quantitative",
                    "axis": {"title": figure, "tickCount": 4, "labelOverlap": True},
                },
                "y": {"field": "group", "type": "nominal", "sort": order, "axis": label_axis(order, 150)},
            },
            "layer": [
                {
                    "mark": {"type": "rule", "color": INK, "opacity": 0.25},
                    "encoding": {
                        "x": {"field": "value", "type": "quantitative", "aggregate": "min"},
                        "x2": {"field": "value", "aggregate": "max"},
                    },
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 80, "opacity": 0.85},
                    "encoding": {
                        "color": {
                            "field": "model",
                            "type": "nominal",
                            "scale": {"domain": models, "range": list(SERIES)},
                            "legend": {
                                "orient": "top",
                                "title": None,
                                "labelLimit": 90,
                                "columns": 4,
                                "columnPadding": 18,
                            },
                        }
                    },
                },
            ],
        }
    )


def calibration(bins: list[dict[str, float]]) -> Markup:
    """Draw the observed share over the predicted probability, dots with an area in proportion to the count."""
    unit = {"type": "quantitative", "scale": {"domain": [0, 1]}}
    x = {**unit, "field": "predicted", "axis": {"title": "predicted probability", "tickCount": 5}}
    y = {**unit, "field": "observed", "axis": {"title": "observed share", "tickCount": 5}}
    return svg(
        {
            "height": 320,
            "autosize": {"type": "fit-x", "contains": "padding"},
            "data": {"values": bins},
            "layer": [
                {
                    "data": {"values": [{"predicted": 0, "observed": 0}, {"predicted": 1, "observed": 1}]},
                    "mark": {"type": "line", "color": INK, "opacity": 0.4, "strokeDash": [4, 4]},
                    "encoding": {"x": x, "y": y},
                },
                {
                    "mark": {"type": "line", "color": "var(--accent)", "strokeWidth": 1.5},
                    "encoding": {"x": x, "y": y},
                },
                {
                    "mark": {"type": "point", "filled": True, "color": "var(--accent)", "opacity": 0.6},
                    "encoding": {
                        "x": x,
                        "y": y,
                        "size": {
                            "field": "count",
                            "type": "quantitative",
                            "scale": {"range": [20, 400]},
                            "legend": None,
                        },
                    },
                },
            ],
        }
    )


def graph(nodes: list[Spec], paths: list[Spec], width: int, rows: int) -> Markup:
    """Draw a graph in rows, wider than asked for if a row has many nodes.

    `nodes` have x from 0 to 1, row, label, note and kind; `paths` have path, step, x, row and `ends`: heights in it.
    """
    points = {(each["row"], each["x"]) for each in [*nodes, *paths]}
    widest = max(sum(row == each for each, _ in points) for row in range(rows))
    width = max(width, widest * MIN_BOX)
    half = min(105.0, (width / widest - 10) / 2)
    characters = int((half * 2 - 6) / BOLD)
    boxes = [
        {
            **node,
            "left": node["x"] * width - half,
            "right": node["x"] * width + half,
            "middle": node["x"] * width,
            "top": node["row"] * LEVEL,
            "base": node["row"] * LEVEL + BOX,
            "label": cut(node["label"], characters),
            "note": cut(node["note"], characters),
        }
        for node in nodes
    ]
    steps = [
        {"path": each["path"], "step": 2 * each["step"] + end, "x": each["x"] * width, "y": each["row"] * LEVEL + down}
        for each in paths
        for end, down in enumerate(each["ends"])
    ]
    x: Spec = {"type": "quantitative", "axis": None, "scale": {"domain": [0, width], "nice": False}}
    height = (rows - 1) * LEVEL + BOX
    y: Spec = {"type": "quantitative", "axis": None, "scale": {"domain": [height, 0], "nice": False}}
    place = {"x": {**x, "field": "left"}, "x2": {"field": "right"}, "y": {**y, "field": "top"}, "y2": {"field": "base"}}
    colour = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": list(KINDS), "range": list(KINDS.values())},
        "legend": None,
    }
    lines: list[Spec] = [
        {
            "mark": {"type": "text", "align": "center", "baseline": "middle", "dy": down, "fontSize": 12, **style},
            "encoding": {"x": {**x, "field": "middle"}, "y": {**y, "field": "top"}, "text": {"field": field}},
        }
        for field, down, style in (("label", 16, {"fontWeight": 600}), ("note", 32, {"fill": "var(--muted)"}))
    ]
    return svg(
        {
            "width": width,
            "height": height,
            "padding": 2,
            "data": {"values": boxes},
            "layer": [
                {
                    "data": {"values": steps},
                    "mark": {"type": "line", "color": "var(--muted)", "strokeWidth": 1.25, "opacity": 0.7},
                    "encoding": {
                        "x": {**x, "field": "x"},
                        "y": {**y, "field": "y"},
                        "detail": {"field": "path"},
                        "order": {"field": "step"},
                    },
                },
                {
                    "mark": {"type": "rect", "cornerRadius": 5, "fill": "var(--paper)", "strokeWidth": 1.75},
                    "encoding": {**place, "stroke": colour},
                },
                *lines,
            ],
        }
    )
