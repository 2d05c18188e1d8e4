"""Expressions of sources and of the tracking plan: Spark SQL over known fields, with functions of a short list."""

import itertools
from collections.abc import Iterable, Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from common.errors import ArgumentError
from common.protocol import nearest

# Functions that Spark and DuckDB, to which sqlglot translates, compute alike.
FUNCTIONS = {
    *(
        "coalesce",
        "nullif",
        "if",
        "cast",
        "try_cast",
        "concat",
        "concat_ws",
        "lower",
        "upper",
        "trim",
        "ltrim",
        "rtrim",
    ),
    *("substring", "left", "right", "split", "split_part", "element_at", "regexp_extract", "regexp_replace", "rlike"),
    *("like", "replace", "length", "lpad", "rpad", "initcap", "to_timestamp", "timestamp_millis", "timestamp_seconds"),
    *("timestamp_micros", "to_date", "date_add", "abs", "round", "floor", "ceil", "greatest", "least", "log", "log1p"),
    *("exp", "sqrt", "pow", "size", "array_contains", "array_join", "get", "md5", "sha2", "get_json_object"),
}
# Words that a parenthesis may follow without being functions.
WORDS = {
    *("and", "or", "not", "in", "is", "between", "like", "rlike", "case", "when", "then", "else"),
    *("decimal", "varchar", "char"),
}
# Spark ends with an error for larger numbers of seconds and milliseconds.
LIMITS = {"timestamp_seconds": exp.Literal.number(9 * 10**12), "timestamp_millis": exp.Literal.number(9 * 10**15)}
FORBIDDEN = (exp.Query, exp.Window, exp.Star, exp.Lambda, exp.Placeholder, exp.Parameter, exp.Alias, exp.Command)


def check(text: str, fields: dict[str, str], where: str) -> None:
    """Raise ArgumentError unless a text is one expression over fields, which are given with their Spark SQL types.

    `where` names the text in the message, as "item_id in [columns] of sources/shop/events.toml".
    """
    tree = parse(text, where)
    for name in called(sqlglot.tokenize(text, read="spark")):
        if name.lower() not in FUNCTIONS:
            raise ArgumentError(
                f"{where} calls the function '{name}'{nearest(name.lower(), sorted(FUNCTIONS))}; "
                "docs/sources.md lists the functions."
            )
    for node in tree.find_all(exp.Bracket, exp.SplitPart):
        first = node.args.get("part_index") if isinstance(node, exp.SplitPart) else node.expressions[0]
        if (isinstance(node, exp.SplitPart) or node.args.get("offset")) and first == exp.Literal.number(0):
            raise ArgumentError(f"{where} is {text!r}, which asks for position 0; the first is 1, and the last is -1.")
    for name, known, owner in paths(tree, fields):
        if name not in known:
            raise ArgumentError(
                f"{where} names '{name}', which is not a field{owner}{nearest(name, sorted(known))}; "
                "correct the expression, or add the field to [fields]."
            )


def parse(text: str, where: str) -> exp.Expression:
    """Return the tree of an expression; ArgumentError if it is not a single expression over one record."""
    try:
        trees = sqlglot.parse(text, read="spark")
    except SqlglotError as error:
        problem = str(error).partition(". Line")[0].splitlines()[0] if str(error) else "no SQL"
        raise ArgumentError(f"{where} is not Spark SQL ({problem}): {text!r}; correct the expression.") from None
    tree = trees[0] if len(trees) == 1 else None
    # Functions without arguments, as current_date, give another value on each run.
    if tree is None or any(
        isinstance(node, FORBIDDEN) or (isinstance(node, exp.Func) and not any(node.args.values()))
        for node in tree.walk()
    ):
        raise ArgumentError(
            f"{where} is {text!r}, expected one expression over the fields of one record: "
            "no query, window, lambda or current time."
        )
    return tree  # type: ignore[return-value]


def called(tokens: list[Token]) -> Iterator[str]:
    """Yield the names that are called as functions, as they are written."""
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.token_type == TokenType.ARROW:
            yield token.text
        if following is None or following.token_type != TokenType.L_PAREN:
            continue
        name = token.text
        if (name.isidentifier() and name.lower() not in WORDS) or token.token_type == TokenType.IDENTIFIER:
            yield name


def paths(tree: exp.Expression, fields: dict[str, str]) -> Iterator[tuple[str, set[str], str]]:
    """Yield each name of a path such as `properties.product_id`, the names that are known there, and their owner."""
    for column in tree.find_all(exp.Column):
        names = path_of(column)
        yield names[0], set(fields), ""
        kind = exp.DataType.build(fields[names[0]], dialect="spark") if names[0] in fields else None
        for owner, name in itertools.pairwise(names):
            kind_of = {each.name: each.kind for each in kind.expressions} if kind and kind.is_type("struct") else None
            if kind_of is None:
                break
            yield name, set(kind_of), f" of '{owner}'"
            kind = kind_of.get(name)


def without_overflow(text: str) -> str:
    """Return an expression that is null, in Spark, for numbers that are too large for a time, not an error."""

    def bounded(node: exp.Expression) -> exp.Expression:
        limit = LIMITS.get(node.name.lower()) if isinstance(node, exp.Anonymous) else None
        if limit is None:
            return node
        low, high = exp.Neg(this=limit.copy()), limit.copy()
        within = exp.Between(this=node.expressions[0].copy(), low=low, high=high)  # abs(-2^63) is -2^63
        return exp.If(this=within, true=node, false=exp.null())

    tree = parse(text, text)
    return tree.transform(bounded).sql(dialect="spark") if any(name in text.lower() for name in LIMITS) else text


def searched(text: str) -> set[str]:
    """Return the fields in which an expression searches for a part, as JSON in a text."""
    found = parse(text, text).find_all(exp.Column)
    return {path_of(column)[0] for column in found if column.find_ancestor(exp.RegexpExtract, exp.JSONExtractScalar)}


def path_of(column: exp.Column) -> list[str]:
    """Return the names of a path; sqlglot has longer ones than table.column as nested nodes."""
    names = [part.name for part in column.parts]
    node: exp.Expression = column
    while isinstance(node.parent, exp.Dot) and node.parent.this is node:
        node = node.parent
        if not isinstance(node.expression, exp.Identifier):
            break
        names.append(node.expression.name)
    return names


def check_type(kind: str, where: str) -> None:
    """Raise ArgumentError unless a text is a type of Spark SQL."""
    try:
        exp.DataType.build(kind, dialect="spark")
    except (SqlglotError, ValueError):
        raise ArgumentError(
            f"{where} is {kind!r}, expected a type of Spark SQL such as string, bigint, double, boolean, timestamp, "
            "array<string> or struct<id: string>."
        ) from None


def type_of_entry(path: str, fields: dict[str, str]) -> str:
    """Return the type of the entries of the array at a path such as `properties.products`; empty if it is not one."""
    column = parse(path, path)
    names = path_of(column) if isinstance(column, exp.Column) else [""]
    kind = exp.DataType.build(fields[names[0]], dialect="spark") if names[0] in fields else None
    for name in names[1:]:
        kind = (
            {each.name: each.kind for each in kind.expressions}.get(name) if kind and kind.is_type("struct") else None
        )
    return kind.expressions[0].sql(dialect="spark") if kind and kind.is_type("array") else ""


def quoted(name: str) -> str:
    """Return a name as Spark SQL, whatever its characters."""
    return f"`{name.replace('`', '``')}`"


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Return the first two names that no expression can tell apart: equal ones, whatever their case."""
    seen: dict[str, str] = {}
    for name in names:
        if (lower := name.lower()) in seen:
            return seen[lower], name
        seen[lower] = name
    return None
