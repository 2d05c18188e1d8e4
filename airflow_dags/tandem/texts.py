"""Refuse texts that would not reach a job as they were given: on no runtime, or not through the shells of YARN.

Standard library only, because the tools that submit jobs check their texts too, where there is no Airflow.
"""

import re
from collections.abc import Mapping

from tandem.dag_errors import PipelineError

LONGEST = 8000  # characters; EMR takes 10,280 for all arguments of a step together
# Control characters but tab and newline, which Java, shells and terminals change or lose, and halves of surrogates,
# which have no encoding.
ANYWHERE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
IN_NAMES = re.compile(rf"[\t\n]|{ANYWHERE.pattern}")  # of which logs and notices make lines
# A driver in deploy mode `cluster` gets its arguments through a shell command of YARN, and on the way
# - Spark puts each into single quotes and a backslash before $ and ", but lets ` and \ be (escapeForShell);
# - YARN turns {{ into $, takes }} away, and puts paths for <LOG_DIR>, <CPS>, <ADD_OPENS> (ContainerLaunch);
# - all that stands in double quotes of a script, where the shell runs what is between ` and takes \ for its own;
# - what is not ASCII depends on the locale of each Java process, which is nobody's to promise.
ON_YARN = re.compile(r"[^\x20-\x7e]|[`\\]|\{\{|\}\}|<(?:LOG_DIR|CPS|ADD_OPENS)>")


def check_texts(texts: Mapping[str, str], refused: re.Pattern[str]) -> None:
    """Raise PipelineError for the first of these texts, by what they are, that does not reach a job as it is."""
    for what, text in texts.items():
        if len(text) > LONGEST:
            raise PipelineError(f"{what} has {len(text)} characters, expected at most {LONGEST}; give less.")
        if found := refused.search(text):
            raise PipelineError(
                f"{what} is {short(text)}, of which {found[0]!r} does not reach a job as it is; give a "
                "value without it."
            )


def short(text: str) -> str:
    """A text in quotes for a message, of which a very long one shows its beginning only."""
    return repr(text if len(text) <= 200 else f"{text[:200]}…")
