"""A proposal as a source's file, with the reason behind each line; and the types that the tracking plan lacks."""

import re
import tomllib
from pathlib import Path

import tomlkit
from tomlkit.items import Table

from common import sources
from common.errors import TaskError
from common.sources import source, tracking_plan
from tools.adopt.mapping import Guess, Proposal
from tools.adopt.plan import Addition

EXTRA = {"events": "context", "items": "attributes", "users": "attributes"}


def check_name(name: str) -> None:
    """Raise TaskError unless a name can be a source's folder and dataset."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name):
        raise TaskError(f"NAME is '{name}', expected lower-case letters, digits and underscores, such as my_shop.")


def path_of(name: str, kind: str) -> Path:
    """Return the path of a source's file."""
    folder = sources.folder()
    assert isinstance(folder, Path)
    return folder / name / f"{kind}.toml"


def text_of(proposal: Proposal, name: str) -> str:
    """Return the content of a source's file; ArgumentError if the loader of sources would not take it."""
    document = tomlkit.document()
    document.add(
        tomlkit.comment("Written by make adopt; each comment is a guess and its reason. Correct and commit it.")
    )
    document["description"] = f"Deliveries of {proposal.kind} like {proposal.path.name}."
    layout = proposal.layout
    document["format"] = layout.format
    if layout.format != "parquet":
        document["compression"] = layout.compression
    if layout.format == "csv":
        document["encoding"] = layout.encoding
        document["delimiter"] = layout.delimiter
        document["quote"] = layout.quote
        document["header"] = layout.header
    if proposal.mode:
        document["mode"] = proposal.mode
    if proposal.each:
        document["each"] = tomlkit.string(proposal.each).comment("an array: one event per entry")
    if proposal.each_optional:
        document["each_optional"] = tomlkit.boolean("true").comment("some records have no entry, and are an event, too")
    fields = tomlkit.table()
    for key, kind in proposal.fields.items():
        fields.add(key, kind)
    document.add("fields", fields)
    document.add("columns", _table(proposal.columns))
    if proposal.extra:
        document.add(EXTRA[proposal.kind], _table(proposal.extra))
    text = tomlkit.dumps(document)
    source.read(name, proposal.kind, tomllib.loads(text))
    return text


def _table(guesses: dict[str, Guess]) -> Table:
    table = tomlkit.table()
    for key, guess in guesses.items():
        comment = re.sub(r"[\x00-\x1f\x7f]", " ", guess.why)
        table.add(key, tomlkit.string(guess.expression).comment(comment))
    return table


def load(name: str, kind: str) -> source.Source:
    """Return a source from its file; ArgumentError names a wrong entry."""
    try:
        document = tomllib.loads(path_of(name, kind).read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"sources/{name}/{kind}.toml is not TOML ({error}); correct that line.") from None
    return source.read(name, kind, document)


def write(proposal: Proposal, name: str) -> None:
    """Write a source's file; ArgumentError if the loader of sources would not take it."""
    text = text_of(proposal, name)
    path = path_of(name, proposal.kind)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")


def add_to_plan(additions: list[Addition]) -> None:
    """Append types to the tracking plan, whose other lines stay as they are; ArgumentError if it becomes wrong."""
    if not additions:
        return
    folder = sources.folder()
    assert isinstance(folder, Path)
    path = folder / tracking_plan.FILE
    before = path.read_text("utf-8")
    path.write_text(before.rstrip("\n") + "\n" + "".join(each.text for each in additions), "utf-8")
    try:
        tracking_plan.load()
    except TaskError:
        path.write_text(before, "utf-8")
        raise
