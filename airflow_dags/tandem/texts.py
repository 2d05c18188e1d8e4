"""Refuse texts that would not reach a job unchanged: on any runtime, or through the shells of YARN.

Standard library only, because the tools that submit jobs check their texts too, where there is no Airflow.
"""

import re
from collections.abc import Mapping

from tandem.dag_errors import PipelineError

MAX_TEXT = 8000  # characters; EMR takes 10,280 for all arguments of a step together
# Control characters but tab and newline, which Java, shells and terminals change or lose, and halves of surrogates,
# which have no encoding.
ANYWHERE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
IN_NAMES = re.compile(rf"[\t\n]|{ANYWHERE.pattern}")  # logs and notices are split into lines
# A driver in deploy mode `cluster` gets its arguments through a shell command of YARN, and on the way
# - Spark puts each into single quotes and escapes $ and ", but not ` and \ (escapeForShell);
# - YARN turns {{ into $, removes }}, and substitutes <LOG_DIR>, <CPS>, <ADD_OPENS> (ContainerLaunch);
# - the result is in double quotes in a script, where the shell runs text between ` and interprets \;
# - other characters than ASCII depend on the locale of each Java process, which Tandem does not control.
ON_YARN = re.compile(r"[^\x20-\x7e]|[`\\]|\{\{|\}\}|<(?:LOG_DIR|CPS|ADD_OPENS)>")


def check_texts(texts: Mapping[str, str], refused: re.Pattern[str]) -> None:
    """Raise PipelineError for the first text that does not reach a job unchanged; keys describe the texts."""
    for description, text in texts.items():
        if len(text) > MAX_TEXT:
            raise PipelineError(f"{description} has {len(text)} characters, expected at most {MAX_TEXT}; shorten it.")
        if match := refused.search(text):
            raise PipelineError(
                f"{description} is {short(text)}, but {match[0]!r} does not reach a job unchanged; remove it."
            )


def short(text: str) -> str:
    """A text in quotes for a message, without the end if it is very long."""
    return repr(text if len(text) <= 200 else f"{text[:200]}…")
