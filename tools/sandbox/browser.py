"""A page of the machine's Chromium, driven by Playwright; needs the environment of requirements/graph.txt."""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Page, sync_playwright

from common.errors import TaskError
from tools.sandbox import parts

WAIT_MILLISECONDS = 300_000  # for Chromium or an element of a page, on a busy machine


@contextlib.contextmanager
def opened(width: int, height: int, **options: Any) -> Iterator[Page]:
    """Open an empty page of this size, in a profile of its own; `options` are Playwright's."""
    program = parts.browser()
    if not program:
        raise TaskError(parts.NO_BROWSER)
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            viewport={"width": width, "height": height},
            args=["--no-sandbox", "--disable-gpu"],
            timeout=WAIT_MILLISECONDS,
            **options,
        )
        context.set_default_timeout(WAIT_MILLISECONDS)
        try:
            yield context.pages[0]
        finally:
            context.close()
