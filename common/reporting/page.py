"""The card of a run and the index page over all runs: each one self-contained HTML file."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.protocol import encode
from common.reporting import card, index_view, lineage_view, words
from common.reporting.examples import ItemExample, UserExample
from common.reporting.index_entry import IndexEntry
from common.reporting.lineage import Lineage, describe
from common.reporting.record import Record

FILTERS = [words.state, words.duration, words.size, words.number, words.figure, words.quality, words.share, words.money,
           words.moment, words.minute, words.clock, words.counted, describe]  # fmt: skip
FOLDER = Path(__file__).with_suffix("")  # templates, style and script


@dataclass(frozen=True)
class Extras:
    """Parts of a card that only the lake knows while it has the run's files, and that the record does not keep."""

    examples: list[UserExample] = field(default_factory=list)
    items: list[ItemExample] = field(default_factory=list)
    lineage: Lineage | None = None


def render_card(record: Record, history: list[Record], extras: Extras) -> str:
    """Return the page about a run; `history` has former records of its pipeline, in any order."""
    return (
        environment()
        .get_template("card.html")
        .render(
            record=record, extras=extras, lineage=lineage_view.content(extras.lineage), **card.content(record, history)
        )
    )


def render_index(entries: list[IndexEntry]) -> str:
    """Return the page over the runs of all pipelines."""
    return environment().get_template("index.html").render(index_view.content(entries))


@cache
def environment() -> Environment:
    """Return the templates with the words of numbers and times as filters; texts from data are escaped."""
    found = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.filters |= {each.__name__: each for each in FILTERS}
    found.filters["encode"] = encode  # the row of a task has the name of its folder: Airflow's tab leads to it
    found.filters["as_json"] = lambda value: json.dumps(value, ensure_ascii=False, default=str)
    for name, file in (("style", "style.css"), ("script", "script.js")):
        text = (FOLDER / file).read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        found.globals |= {name: Markup(text), f"{name}_hash": digest}  # its own file, for the page's security policy
    return found
