"""The check of the language finds long sentences, "what", and docstrings that begin like a question."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.scaffold.language import docstrings_of, paragraphs, sentences

ROOT = Path(__file__).parents[3]
LONG = " ".join(["word"] * 17)


def check(*paths: Path) -> tuple[int, str]:
    """Run the check as make does; return its exit code and its output."""
    command = [sys.executable, "-m", "tools.scaffold.language", *map(str, paths)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return process.returncode, process.stdout + process.stderr


def lengths(file: Path) -> list[int]:
    """Count the words of each sentence of a document."""
    return [count for count, _ in sentences(list(paragraphs(file)))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two. Three four five.", [2, 3]),
        ("It is in common/lake.py, version 1.2.\n`make demo` runs it.", [6, 3]),
        ("Over two\nlines, (in brackets.) Then [a link](docs/far_away.md).", [5, 3]),
        ("- one item\n  goes on\n- another\n1. A third: `spark-submit --lake here`", [4, 1, 3]),
        ("**All of it has .422.** With two.", [5, 2]),
        ("# A heading. Of words.\n| a table | of words |\n|---|---|", []),
        ("Before.\n```sh\na block. Of code.\n```\nAfter it.", [1, 2]),
    ],
)
def test_words_of_sentences_are_counted(tmp_path, text, expected):
    (tmp_path / "page.md").write_text(text)
    assert lengths(tmp_path / "page.md") == expected


def test_short_sentences_pass(tmp_path):
    (tmp_path / "page.md").write_text("A page.\n\nIt has short sentences.\n")
    code, output = check(tmp_path)
    assert code == 0
    assert output == (
        "documents: 3.0 words per sentence in 2 sentences, at most 16\n"
        'documents: 0.0 times "what" per 1,000 words in 6 words, at most 3\n'
    )


def test_long_sentences_are_named_with_their_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{LONG}.\n")
    code, output = check(page)
    assert code == 1
    assert f"{page}:3: a sentence of 17 words; split it" in output


def test_frequent_what_is_refused_in_documents_and_docstrings(tmp_path):
    page, program = tmp_path / "page.md", tmp_path / "program.py"
    page.write_text("| what | it does |\n|---|---|\n\nA `what` in code is free.\n")
    program.write_text('"""Do what is needed."""\n\n\ndef f():\n    """Do it."""\n')
    code, output = check(tmp_path)
    assert code == 1
    assert f'{page}:1: "what" 1 times; name the thing instead' in output
    assert f'{program}:1: "what" 1 times; name the thing instead' in output


def test_docstring_that_begins_like_a_question_is_refused(tmp_path):
    program = tmp_path / "program.py"
    program.write_text('"""A module."""\n\n\nclass A:\n    def f(self):\n        """Whether it works."""\n')
    assert [text.line for text in docstrings_of(program)] == [1, 6]
    code, output = check(program)
    assert code == 1
    assert f"{program}:6: the docstring begins with Whether; begin with a verb or a noun" in output
