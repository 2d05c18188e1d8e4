"""Log in on Airflow's page, look at the tab "Card" of a run and of its task in Chromium, and print findings as JSON.

Arguments: the URL of Airflow, user, password, the IDs of DAG, run, task and a run without card, a picture.
"""

import json
import sys
from urllib.parse import quote

from playwright.sync_api import Page

from tools.sandbox import browser


def main() -> None:
    url, user, password, dag, run, task, without, picture = sys.argv[1:]
    found: dict[str, object] = {}
    errors: list[str] = []
    with browser.opened(1400, 900) as page:
        log_in(page, url, user, password)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        run, without = quote(run, safe=""), quote(without, safe="")
        for name, path in {"run": run, "task": f"{run}/tasks/{task}", "without": without}.items():
            for _ in range(10):  # on a busy machine, a frame in Chromium sometimes never scrolls to its anchor
                page.goto(f"{url}/dags/{dag}/runs/{path}")
                page.get_by_role("link", name="Card").click()
                found[name] = seen = look(page, scrolled=name == "task")
                if seen["scrolled"] or name != "task":
                    break
            if name == "run":
                page.screenshot(path=picture)
    print(json.dumps({**found, "errors": errors}))


def log_in(page: Page, url: str, user: str, password: str) -> None:
    page.goto(url)
    page.locator("[name=username]").fill(user)
    page.locator("[name=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda address: "/auth/" not in address)


def look(page: Page, scrolled: bool) -> dict[str, object]:
    """The text in the tab, the place that it is scrolled to, and the title that the card's script has set."""
    inner = page.locator("iframe[title=Card]").element_handle().content_frame()
    assert inner
    inner.wait_for_selector("p")
    waited = 0
    while scrolled and not inner.evaluate("scrollY") and (waited := waited + 1) < 100:  # a busy machine scrolls late
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)  # until its script has tried everything
    return {
        "text": inner.inner_text("body"),
        "anchor": inner.evaluate("location.hash"),
        "scrolled": inner.evaluate("scrollY"),
        "title": inner.evaluate("document.title"),
    }


if __name__ == "__main__":
    main()
