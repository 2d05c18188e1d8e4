"""Measure the language of documents and docstrings, and refuse what is over the limits.

Sentences of documents have at most 16 words on average; code, tables and headings are left out. The word "what" occurs
at most 3 times per 1,000 words, in documents (tables and headings included) and in docstrings alike. A docstring begins
with a verb or a noun.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

MAX_WORDS = 16
MAX_WHAT = 3.0
SHOWN = 10
AS_QUESTION = re.compile(r"(What|How|Whether|Where)\b")
MARKER = re.compile(r"^(?:[-*]|\d+\.) ")
SENTENCE_END = re.compile(r"(?<=[.!?])[)\"*_]*\s+(?=[\"(*_\[]*[A-Z`0-9])")
WORD = re.compile(r"\w(?:[\w'’.,/-]*\w)?")


@dataclass(frozen=True)
class Text:
    """A paragraph, heading, table row or docstring, with the place where it begins."""

    file: Path
    line: int
    text: str
    prose: bool = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="documents (.md), programs (.py), or folders of both")
    files = sorted({file for path in parser.parse_args().paths for file in expand(path)})
    documents = [text for file in files if file.suffix == ".md" for text in paragraphs(file)]
    docstrings = [text for file in files if file.suffix == ".py" for text in docstrings_of(file)]
    problems = [*long_sentences(documents), *frequent_what("documents", documents)]
    problems += [*frequent_what("docstrings", docstrings), *questions(docstrings)]
    print("\n".join(problems), end="\n" if problems else "")
    sys.exit(bool(problems))


def expand(path: Path) -> list[Path]:
    """Return the file itself, or the documents and programs of a folder."""
    if path.is_dir():
        return [file for file in path.rglob("*") if file.suffix in (".md", ".py")]
    return [path]


def paragraphs(file: Path) -> Iterator[Text]:
    """Split a document at blank lines, list items, headings and table rows; leave out blocks of code."""
    start, fenced = 0, False
    lines: list[str] = []
    for number, line in enumerate([*file.read_text("utf-8").splitlines(), ""], start=1):
        content = line.strip()
        fence = content.startswith("```")
        alone = content.startswith(("#", "|"))
        if lines and (fenced or fence or alone or not content or MARKER.match(content)):
            yield Text(file, start, " ".join(lines))
            lines = []
        fenced ^= fence
        if fenced or fence or not content:
            continue
        if alone:
            yield Text(file, number, content, prose=False)
            continue
        start = start if lines else number
        lines.append(MARKER.sub("", content, count=1))


def docstrings_of(file: Path) -> Iterator[Text]:
    """Find the docstrings of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield Text(file, node.body[0].lineno, text)


def plain(text: str) -> str:
    """Replace code and links by the words that a reader says for them: a code span counts as one word."""
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"`[^`]+`", "`code`", text)


def words(text: str) -> list[str]:
    """Split a text into words; a code span and a number are one word each."""
    return WORD.findall(plain(text))


def sentences(texts: list[Text]) -> list[tuple[int, Text]]:
    """Return the sentences of the prose, each with its number of words."""
    found = [
        (len(words(sentence)), Text(text.file, text.line, sentence))
        for text in texts
        if text.prose
        for sentence in SENTENCE_END.split(plain(text.text))
    ]
    return [(count, sentence) for count, sentence in found if count]


def long_sentences(documents: list[Text]) -> list[str]:
    """Print the mean length of sentences; return the longest ones if it is over the limit."""
    counted = sentences(documents)
    if not counted:
        return []
    average = mean(count for count, _ in counted)
    print(f"documents: {average:.1f} words per sentence in {len(counted):,} sentences, at most {MAX_WORDS}")
    if average <= MAX_WORDS:
        return []
    longest = sorted(counted, key=lambda pair: -pair[0])[:SHOWN]
    return [f"{place(text)}: a sentence of {count} words; split it" for count, text in longest]


def frequent_what(kind: str, texts: list[Text]) -> list[str]:
    """Print the frequency of "what"; return where it occurs most if it is over the limit."""
    total = sum(len(words(text.text)) for text in texts)
    if not total:
        return []
    counts = [(len(re.findall(r"\bwhat\b", plain(text.text), re.IGNORECASE)), text) for text in texts]
    frequency = 1000 * sum(count for count, _ in counts) / total
    print(f'{kind}: {frequency:.1f} times "what" per 1,000 words in {total:,} words, at most {MAX_WHAT:g}')
    if frequency <= MAX_WHAT:
        return []
    most = sorted((pair for pair in counts if pair[0]), key=lambda pair: -pair[0])[:SHOWN]
    return [f'{place(text)}: "what" {count} times; name the thing instead' for count, text in most]


def questions(docstrings: list[Text]) -> list[str]:
    """Return the docstrings that begin like a question."""
    found = [(match[1], text) for text in docstrings if (match := AS_QUESTION.match(text.text))]
    return [f"{place(text)}: the docstring begins with {word}; begin with a verb or a noun" for word, text in found]


def place(text: Text) -> str:
    """Name a place as editors open it."""
    return f"{text.file}:{text.line}"


if __name__ == "__main__":
    main()
