"""The proposal of a mapping: which fields of a sample become which columns, by names first, then by their values."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import TaskError
from common.sources.source import ARRIVAL
from tools.adopt import names, plan, times
from tools.adopt.fields import Field, fields_of, quoted
from tools.adopt.layout import Layout, Sample

MAX_EXTRA = 20  # fields that are kept in the context of events, or as attributes
MAX_TYPES = 200  # of events; a field with more values is not their type
NUMBERS = {"value": "double", "quantity": "bigint", "unit_price": "double", "position": "bigint"}
MAX_WORDS = {"country": 300, "platform": 100, "plan": 50, "change": 50}  # distinct values
CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d)?")
COORDINATE = re.compile(r"-?\d{1,3}\.\d{4,}")
STEPS = ("time", "event_id", "user_id", "item_id", "type", "session_id", "quantity", "unit_price", "value",
         "platform", "country", "request_id", "position")  # fmt: skip
# Of the columns in the file: the ingestion names the first one that is wrong, in this order.
ORDER = ("event_id", "user_id", "item_id", "type", "time", "value", *STEPS)
REQUIRED = {"time": "times", "item_id": "IDs of items", "user_id": "IDs of users"}
NO_TIMES = (
    "No field of times: each event counts for the day on which its file arrives. So there is no past to learn from and "
    "no future to be judged on: models and trends are impossible, similar items are possible."
)


@dataclass(frozen=True)
class Guess:
    """An expression, and the reason for it."""

    expression: str
    why: str


@dataclass
class Proposal:
    """A source's file before it is written; `notes` are for people to check."""

    kind: str
    path: Path
    layout: Layout
    columns: dict[str, Guess] = field(default_factory=dict)
    extra: dict[str, Guess] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    each: str | None = None
    each_optional: bool = False
    mode: str | None = None
    notes: list[str] = field(default_factory=list)


class Mapper:
    """The state of a proposal: fields that are free, and the types that expressions ask of the used ones."""

    def __init__(self, kind: str, sample: Sample) -> None:
        self.sample = sample
        self.fields = fields_of(sample)
        self.types: dict[int, str] = {}  # of used fields, by id()
        self.proposal = Proposal(kind, sample.path, sample.layout)

    @property
    def free(self) -> list[Field]:
        return [each for each in self.fields if id(each) not in self.types and each.values and each.path]

    def candidates(self, column: str, suits: Callable[[Field], bool]) -> list[Field]:
        """Return the free fields whose names and values fit a column, the likeliest first."""
        ranked = []
        takes_arrays = column == "item_id" and self.proposal.kind != "users"
        for position, each in enumerate(self.free):
            rank = names.rank(self.proposal.kind, column, each.name, ".".join(each.steps))
            in_other_array = each.array is not None and not in_each(self, each)
            if rank is not None and suits(each) and (takes_arrays or not in_other_array):
                inside = each.array is not None and self.proposal.each is not None
                ranked.append((not inside, rank, len(each.steps), position, each))
        return [each for *_, each in sorted(ranked, key=lambda entry: entry[:4])]

    def use(self, each: Field, kind: str = "string") -> str:
        """Take a field; return its expression, without words that stand for a missing value."""
        expression = each.expression
        for word in each.nulls:
            literal = word.replace("\\", "\\\\")
            expression = f"nullif({expression}, '{literal}')"
        needs_cast = kind != "string" and (bool(each.nulls) or each.is_quoted)
        self.types[id(each)] = each.spark_type or ("string" if needs_cast else kind)
        return f"try_cast({expression} as {kind})" if needs_cast and not each.spark_type else expression

    def first_of(self, taken: list[Field], kind: str = "string") -> str:
        """Take fields; return the expression of the first that has a value."""
        alike = len({each.spark_type for each in taken}) == 1
        if kind == "string":
            whole = alike and taken[0].spark_type in ("int", "bigint")
            expressions = [self.use(each) if whole else text_of(self, each) for each in taken]
        else:
            expressions = [self.use(each, kind) for each in taken]
            expressions = expressions if alike else [f"cast({expression} as {kind})" for expression in expressions]
        return f"coalesce({', '.join(expressions)})" if len(taken) > 1 else expressions[0]

    def put(self, column: str, expression: str, why: str) -> None:
        self.proposal.columns[column] = Guess(expression, why)

    def put_text(self, column: str, found: list[Field], why: str = "") -> None:
        """Map a column to a field of text, or to two of which the first has no value in some records."""
        taken = found[:1]
        if len(found) > 1 and found[0].filled < 0.999:
            taken = found[:2]
        self.put(
            column,
            self.first_of(taken),
            "; ".join([*([why] if why else []), *(describe(each, not why) for each in taken)]),
        )

    def put_time(self, found: list[Field]) -> None:
        """Map the time to a field, or to one of a day and one of a clock's time."""
        best = found[0]
        clocks = [each for each in self.free if all(CLOCK.fullmatch(str(value)) for value in each.values)]
        read = reading(best)
        assert read is not None
        expression, kind, why = read
        if "time of day" in why and clocks and "time" in names.key(clocks[0].name):
            expression = f"concat({expression}, ' ', {self.use(clocks[0])})"
            why = f"day and time of day, from {best.path} and {clocks[0].path}"
        if best.is_quoted and not best.spark_type:
            kind = "string"
        self.types[id(best)] = best.spark_type or kind
        self.put("time", expression, f"{best.path}: {why}")


def reading(each: Field) -> tuple[str, str, str] | None:
    """Return the expression that makes a time of a field, its type, and the reason; None if it has no times."""
    if each.spark_type == "timestamp":
        return each.expression, "timestamp", "typed in the file"
    if each.spark_type == "date":
        return f"cast({each.expression} as timestamp)", "date", "days, without a time of day"
    number = f"cast({each.expression} as bigint)" if each.is_quoted else each.expression
    return times.reading(each.values, each.expression, number, each.numbers)


def describe(each: Field, by_name: bool = True) -> str:
    """Return the reason for a field: its name or its values, and counts."""
    how = "by its name" if by_name else "by its values"
    share = "" if each.filled >= 0.999 else f", filled in {each.filled:.1%} of the records"
    return f"{each.path} {how}: {each.distinct:,} different in {each.records:,} records{share}"


def suits_id(each: Field) -> bool:
    """Return True for words and whole numbers of which there are several."""
    if each.spark_type in ("timestamp", "date", "boolean"):
        return False
    if any(type(value) is float for value in each.values[:1000]):
        return False
    texts = [str(value) for value in each.values[:1000]]
    return sum(map(len, texts)) <= 200 * len(texts)


def looks_like_ids(each: Field) -> bool:
    """Return True for words and whole numbers, without the help of a name."""
    fractions = each.numbers and any(number % 1 for number in each.numbers[:1000])
    return each.array is None and each.distinct > 1 and suits_id(each) and not fractions and not few_small_numbers(each)


def suits_type(each: Field) -> bool:
    return each.distinct <= (10 if each.numbers else MAX_TYPES) and each.filled >= 0.3 and reading(each) is None


def suits(column: str) -> Callable[[Field], bool]:
    """Return the check of values for a column."""
    if column in ("time", "available_from", "available_until"):
        return lambda each: reading(each) is not None
    if column == "event_id":
        return lambda each: each.array is None and each.filled >= 0.99 and 1 < each.distinct >= 0.95 * len(each.values)
    if column in NUMBERS:
        return lambda each: bool(each.numbers) and not (each.numbers and times.unit(each.numbers))
    if column == "type":
        return suits_type
    if column in MAX_WORDS:
        return lambda each: each.distinct <= MAX_WORDS[column] and not each.numbers
    if column in ("name", "family"):
        return lambda each: reading(each) is None
    if column == "item_id":
        return lambda each: suits_id(each) and each.distinct > 1
    return suits_id


def propose_events(sample: Sample) -> Proposal:
    """Return the mapping of a sample of events; TaskError if it lacks times, or users and items."""
    mapper = Mapper("events", sample)
    map_times(mapper)
    for column in STEPS[1:]:
        found = mapper.candidates(column, suits(column))
        if not found:
            continue
        if column == "item_id":
            put_item(mapper, found)
        elif column in NUMBERS:
            put_number(mapper, column, found)
        else:
            mapper.put_text(column, found)
    guess_by_values(mapper)
    require_users_and_items(mapper)
    if "type" not in mapper.proposal.columns:
        put_constant_type(mapper)
    columns = mapper.proposal.columns
    mapper.proposal.columns = {name: columns[name] for name in ORDER if name in columns}
    finish(mapper)
    return mapper.proposal


def map_times(mapper: Mapper) -> None:
    """Map the time: a field of that name, else any that has times, with the time of day if one has it."""
    found = mapper.candidates("time", suits("time"))
    found = found or [each for each in mapper.free if each.array is None and reading(each) and each.distinct > 1]
    if not found:
        mapper.fields = [each for each in mapper.fields if each.top.lower() != ARRIVAL]
        mapper.put("time", f"cast({ARRIVAL} as timestamp)", "no field of times, so each event is of the day of arrival")
        mapper.proposal.notes.append(NO_TIMES)
        return
    mapper.put_time(sorted(found, key=lambda each: "time of day" in (reading(each) or ("", "", ""))[2]))
    if "check" in mapper.proposal.columns["time"].why:
        mapper.proposal.notes.append(f"time: {mapper.proposal.columns['time'].why}.")


def put_item(mapper: Mapper, found: list[Field]) -> None:
    """Map the item, in an array to one event per entry; the record's own item where the array is empty."""
    own = [each for each in found if each.array is None]
    inside = [each for each in found if each.array is not None]
    if not inside:
        mapper.put_text("item_id", [each for each in own if names.key(each.name) == names.key(own[0].name)])
        return
    array = inside[0].array
    assert array is not None
    mapper.proposal.each = ".".join(quoted(step) for step in array)
    filled = 0
    for record in mapper.sample.records:
        value: object = record
        for step in array:
            value = value.get(step) if isinstance(value, dict) else None
        filled += bool(value)
    mapper.proposal.each_optional = filled < len(mapper.sample.records)
    entries = [each for each in inside if each.array == array][:1]
    both = entries + (own[:1] if mapper.proposal.each_optional else [])
    mapper.put("item_id", mapper.first_of(both), "; ".join(describe(each) for each in both))


def put_number(mapper: Mapper, column: str, found: list[Field], by_name: bool = True) -> None:
    """Map a number, in arrays that of the entry, else the record's own."""
    taken = found[:2] if found[0].array and len(found) > 1 and found[1].array is None else found[:1]
    kind = NUMBERS[column]
    if kind == "bigint" and any(not each.integers for each in taken):
        kind = "double"
    text = mapper.first_of(taken, kind)
    whole = f"cast({text} as bigint)" if kind != NUMBERS[column] else text
    low, high = min(taken[0].numbers or [0]), max(taken[0].numbers or [0])
    mapper.put(column, whole, f"{describe(taken[0], by_name)}, from {low:g} to {high:g}")


def guess_by_values(mapper: Mapper) -> None:
    """Map what names did not tell: types by known words, then users and items by their place, then a rating."""
    columns = mapper.proposal.columns
    if "type" not in columns:
        words = [each for each in mapper.free if each.array is None and not each.numbers and 2 <= each.distinct <= 50
                 and suits_type(each) and any(plan.meaning(word) for word in each.texts)]  # fmt: skip
        if words:
            mapper.put_text("type", words[:1], "has words such as those of events")
    for column in ("user_id", "item_id"):
        if column in columns or (column == "user_id" and "session_id" in columns):
            continue
        ids = [each for each in mapper.free if looks_like_ids(each)
               and (not mapper.sample.layout.header or names.key(each.name).endswith("id"))]  # fmt: skip
        if ids:
            mapper.put_text(column, ids[:1], "the first free field of IDs")
            mapper.proposal.notes.append(f"{column} is {ids[0].path}: by its values only, check.")
    if "value" not in columns and not mapper.sample.layout.header:
        numbers = [each for each in mapper.free if each.numbers and each.distinct > 1 and looks_like_value(each)]
        if numbers:
            put_number(mapper, "value", numbers[:1], by_name=False)


def looks_like_value(each: Field) -> bool:
    """Return True for ratings and amounts, without the help of a name; coordinates have more decimals."""
    fractions = any(number % 1 for number in each.numbers or [])
    return few_small_numbers(each) or (fractions and not COORDINATE.fullmatch(str(each.values[0])))


def few_small_numbers(each: Field) -> bool:
    """Return True for few small numbers: ratings and flags, not items."""
    numbers = each.numbers or [-1]
    return each.distinct <= 11 and 0 <= min(numbers) <= max(numbers) <= 10


def require_users_and_items(mapper: Mapper) -> None:
    """Let sessions stand in for users; TaskError if there are no users or no items."""
    columns, proposal = mapper.proposal.columns, mapper.proposal
    if "user_id" not in columns and "session_id" in columns:
        session = columns["session_id"].expression
        mapper.put("user_id", session, "no field of users, so each session is a user of its own")
        proposal.notes.append("No field of users: each session stands for a user, so nobody has a second visit.")
    for column in ("user_id", "item_id"):
        if column not in columns:
            looked_at = ", ".join(each.path for each in mapper.fields[:12])
            raise TaskError(
                f"No field of {mapper.sample.path} has {REQUIRED[column]}; its fields are {looked_at}: rename the "
                f"field that has them to {column}."
            )


def put_constant_type(mapper: Mapper) -> None:
    """Map the type of events that do not say theirs: by the value's name, by a price, by the file's name."""
    columns = mapper.proposal.columns
    value = columns["value"].why.split(" ")[0] if "value" in columns else ""
    kind = names.type_of_name(value.rpartition(".")[2], names.TYPES_BY_VALUE)
    reason = f"the field {value}"
    if kind is None:
        kind, reason = names.type_of_name(mapper.sample.path.stem, names.TYPES_BY_FILE), "the file's name"
    if kind is None and mapper.sample.layout.header is False and value:
        numbers = next(each.numbers for each in mapper.fields if each.path == value) or [0]
        if min(numbers) >= 0 and max(numbers) <= 10 and len(set(numbers)) <= 21:
            kind, reason = "rating", f"{value} has few small numbers"
    if kind is None and {"quantity", "unit_price"} & columns.keys():
        kind, reason = "purchase", "quantities or prices"
    text = f"by {reason}" if kind else "nothing says more"
    mapper.put("type", f"'{kind or 'view'}'", f"no field of types, so all events are alike: {text}")
    mapper.proposal.notes.append(f"No field of types: every event is a {kind or 'view'}, {text}.")


def finish(mapper: Mapper) -> None:
    """Keep further fields as text, and name the fields with their types."""
    left = [each for each in mapper.free if each.distinct > 1 and (each.array is None or in_each(mapper, each))
            and sum(len(str(value)) for value in each.values[:1000]) <= 200 * min(1000, len(each.values))]  # fmt: skip
    for each in left[:MAX_EXTRA]:
        text = text_of(mapper, each)
        mapper.proposal.extra[unique_key(each, mapper.proposal.extra)] = Guess(text, describe_extra(each))
    if len(left) > MAX_EXTRA:
        rest = ", ".join(each.path for each in left[MAX_EXTRA:][:10])
        mapper.proposal.notes.append(f"{len(left) - MAX_EXTRA} more fields are left out: {rest}.")
    mapper.proposal.fields = types_of(mapper)


def text_of(mapper: Mapper, each: Field) -> str:
    """Take a field as text: numbers with fractions by way of decimals, which are written alike by all engines."""
    kind = each.spark_type
    if kind is None and not each.from_text:
        by_type = ((bool, "boolean"), (float, "double"))
        kind = next((name for python, name in by_type if any(type(value) is python for value in each.values)), None)
    expression = mapper.use(each, kind or "string")
    if kind in ("float", "double"):
        expression = f"cast({expression} as decimal(38, 6))"
    return f"cast({expression} as string)" if kind not in (None, "string") else expression


def describe_extra(each: Field) -> str:
    return f"{each.distinct:,} different values"


def in_each(mapper: Mapper, each: Field) -> bool:
    return each.array is not None and ".".join(map(quoted, each.array)) == mapper.proposal.each


def unique_key(each: Field, taken: dict[str, Guess]) -> str:
    """Return a key for the context: the last names of the field's path, or all if another field has these."""
    name = re.sub(r"\W+", "_", "_".join(each.steps[-2:])).strip("_") or "field"
    path = re.sub(r"\W+", "_", each.path).strip("_")
    key = name if name not in taken else path
    while key in taken:
        key += "_"
    return key


def types_of(mapper: Mapper) -> dict[str, str]:
    """Return the record's fields that expressions use with their types; all of a file without a header."""
    tree: dict[str, object] = {}
    for each in mapper.fields:
        if id(each) not in mapper.types and mapper.sample.layout.header:
            continue
        node = tree
        for step in (*(each.array or ()), *(("[]",) if each.array else ()), *each.steps)[:-1]:
            node = node.setdefault(step, {})  # type: ignore[assignment]
        last = each.steps[-1] if each.steps else "[]"
        node[last] = mapper.types.get(id(each), "string")
    return {name: ddl(node) for name, node in tree.items()}


def ddl(node: object) -> str:
    """Return the type of a tree of fields in Spark SQL."""
    if isinstance(node, str):
        return node
    assert isinstance(node, dict)
    if list(node) == ["[]"]:
        return f"array<{ddl(node['[]'])}>"
    return f"struct<{', '.join(f'{quoted(name)}: {ddl(inner)}' for name, inner in node.items())}>"


def propose_items(sample: Sample, known: set[str]) -> Proposal:
    """Return the mapping of a sample of items; `known` are the items of the events."""
    mapper = Mapper("items", sample)
    named = sorted(mapper.candidates("item_id", suits_id), key=lambda each: each.array is not None)
    shared = {id(each): len(each.texts & known) for each in mapper.free if suits_id(each) and each.array is None}
    overlapping = sorted((each for each in mapper.free if shared.get(id(each))), key=lambda each: -shared[id(each)])
    found = [each for each in named if shared.get(id(each))] or overlapping or named
    by_place = not found
    found = found or [each for each in mapper.free if suits_id(each) and each.array is None]
    if not found:
        raise TaskError(
            f"No field of {sample.path} has {REQUIRED['item_id']}; rename the field that has them to item_id."
        )
    count = len(found[0].texts & known)
    if found[0].array is None:
        why = f"{count:,} of its IDs are in the events" if count else "the first field" if by_place else ""
        mapper.put_text("item_id", found[:1], why)
    else:
        put_item(mapper, found[:1])
        mapper.proposal.each_optional = False  # records without an entry have no item
    if known and not count:
        mapper.proposal.notes.append(f"No item of {sample.path.name} is in the events: are these the same IDs?")
    by_name = {names.key(each.name): each for each in mapper.free}
    if {"property", "value"} <= by_name.keys():
        map_change_log(mapper, by_name["property"], by_name["value"])
    else:
        map_rows(mapper)
    finish(mapper)
    return mapper.proposal


def map_rows(mapper: Mapper) -> None:
    """Map name, family and dates of a catalogue with one row per item."""
    for column in ("name", "family", "available_from", "available_until", "time"):
        found = mapper.candidates(column, suits(column))
        if column == "name" and not found and not mapper.sample.layout.header:
            found = [each for each in mapper.free if not each.numbers and each.distinct > 0.8 * len(each.values)]
        if not found:
            continue
        if column in ("name", "family"):
            mapper.put_text(column, found[:1])
            if column == "family" and sum("|" in text for text in found[0].texts) > 0.1 * found[0].distinct:
                guess = mapper.proposal.columns["family"]
                mapper.put("family", f"split_part({guess.expression}, '|', 1)", f"{guess.why}; the first of several")
            continue
        read = reading(found[0])
        assert read is not None
        mapper.types[id(found[0])] = found[0].spark_type or read[1]
        mapper.put(column, read[0], f"{found[0].path}: {read[2]}")


def map_change_log(mapper: Mapper, name: Field, value: Field) -> None:
    """Map a log of changes with one property per row: the category is the family, the commonest are attributes."""
    mapper.proposal.mode = "increments"
    found = mapper.candidates("time", suits("time"))
    if found:
        mapper.put_time(found)
    name_text, value_text = mapper.use(name), mapper.use(value)
    for column in ("name", "family"):
        ranked = sorted((rank, word) for word in name.texts
                        if (rank := names.rank("items", column, word, word)) is not None)  # fmt: skip
        if ranked:
            word = ranked[0][1].replace("'", "''")
            mapper.put(column, f"if({name_text} = '{word}', {value_text}, null)", f"a row per property: {word}")
    mapper.proposal.notes.append("A log of changes: each property takes its last value.")


def propose_users(sample: Sample) -> Proposal:
    """Return the mapping of a sample of users' changes; TaskError if it has no users or no times."""
    mapper = Mapper("users", sample)
    for column in ("user_id", "time", "change", "plan", "country", "platform"):
        found = mapper.candidates(column, suits(column))
        if column == "time" and found:
            mapper.put_time(found)
        elif column == "change":
            put_change(mapper, found)
        elif found:
            mapper.put_text(column, found[:1])
        elif column in ("user_id", "time"):
            raise TaskError(
                f"No field of {sample.path} has {REQUIRED[column]}; rename the field that has them to {column}, or "
                "leave USERS out."
            )
    finish(mapper)
    return mapper.proposal


def put_change(mapper: Mapper, found: list[Field]) -> None:
    """Map a user's change to subscribe, change or cancel."""
    if not found:
        mapper.put("change", "'subscribe'", "no field of changes, so each row is a subscription")
        return
    text, cases = mapper.use(found[0]), []
    for word in sorted(found[0].texts):
        lower = word.lower()
        change = (
            "cancel" if re.search("cancel|end|churn|unsub|expire|delete", lower)
            else "subscribe" if re.search("sub|start|sign|join|creat|register|new|activat", lower)
            else "change"
        )  # fmt: skip
        literal = word.replace("\\", "\\\\").replace("'", "\\'")
        cases.append(f"when '{literal}' then '{change}'")
    mapper.put("change", f"case {text} {' '.join(cases)} end", f"{describe(found[0])}; check the words")
