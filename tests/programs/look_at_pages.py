"""Look at pages in Chromium, with and without script, wide, narrow, dark and printed; print the findings as JSON.

Arguments: HTML files. Findings are by the name of the file without suffix.
"""

import json
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

from tools.sandbox import browser

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
FOCUS = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  return {
    name: element.tagName.toLowerCase() + (element.className ? "." + element.className : ""),
    text: element.textContent.trim().slice(0, 40),
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: box.width > 0 && box.bottom > 0 && box.top < innerHeight,
  };
}"""
A4 = 688  # points between its margins
SORTED_BY = ("Task", "Working", "Pipeline", "Duration")
VALUES = """(table, column) => [...table.tBodies[0].rows].filter((row) => !row.hidden)
  .map((row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim())"""
ROWS = """(table) => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"""
OPEN = "(open) => document.querySelectorAll('details').forEach((each) => { each.open = open; })"
HIDDEN_PARTS = """() => [...document.querySelectorAll("details > :not(summary, .tools)")]
  .filter((each) => !each.checkVisibility()).length"""


def main() -> None:
    files = [Path(argument).resolve() for argument in sys.argv[1:]]
    found: dict[str, dict[str, object]] = {file.stem: {} for file in files}
    with browser.opened(**WIDE) as page:
        for file in files:
            found[file.stem] |= look(page, file)
    with browser.opened(**WIDE, java_script_enabled=False) as page:
        for file in files:
            page.goto(file.as_uri())
            found[file.stem]["without_script"] = {
                "hidden_rows": page.locator("tr[hidden]").count(),
                "buttons": page.locator("button").count(),
            }
    print(json.dumps(found))


def look(page: Page, file: Path) -> dict[str, object]:
    """Return the findings about one page."""
    errors: list[str] = []
    requests: list[str] = []

    def on_message(message):
        errors.append(message.text)

    def on_request(request):
        requests.append(request.url)

    def on_dialog(dialog):
        errors.append(f"dialog {dialog.message}")
        dialog.dismiss()

    listeners = {"console": on_message, "pageerror": on_message, "request": on_request, "dialog": on_dialog}
    for event, listener in listeners.items():
        page.on(event, listener)
    page.set_viewport_size(WIDE)
    page.emulate_media(color_scheme="light", media="screen", reduced_motion="reduce")
    page.goto(file.as_uri())
    found = {
        "keyboard": keyboard(page),
        "widths": widths(page),
        "axe": axe(page),
        "printed": printed(page),
        "tables": [table(each) for each in page.locator("table[data-tools]").all()],
        "injected": page.locator("[onmouseover], script:not(body > script)").count(),
    }
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return {**found, "errors": errors, "requests": [url for url in requests if url != file.as_uri()]}


def keyboard(page: Page) -> dict[str, object]:
    """Return the elements that the first presses of Tab reach, and the place that the first one leads to."""
    stops = []
    for _ in range(30):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUS))
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    return {"stops": stops, "skipped_to": page.evaluate("document.activeElement.id")}


def table(here: Locator) -> dict[str, object]:
    """Return the rows of a table as it is, sorted by keyboard by each of three columns, and filtered."""
    found: dict[str, object] = {"caption": here.locator("caption").inner_text(), "rows": here.evaluate(ROWS)}
    orders = {}
    for column, name in enumerate(here.locator("thead th").all_inner_texts()):
        if name in SORTED_BY:
            head = here.locator("thead th").nth(column)
            for press in ("Enter", "Space"):
                head.locator("button").press(press)
                orders[f"{name}, {head.get_attribute('aria-sort')}"] = here.evaluate(VALUES, column)[:50]
    found["orders"] = orders
    tools = here.locator("xpath=ancestor::div[contains(@class,'scroll')]/preceding-sibling::*[1][@class='tools']")
    if tools.count():
        found |= filtered(here, tools)
    return found


def filtered(here: Locator, tools: Locator) -> dict[str, object]:
    """Return the rows and the words of a table after typing a text, after each last choice, and of all rows."""
    tools.locator("input").fill("FAILED")
    found: dict[str, object] = {"filtered": here.evaluate(ROWS), "says": tools.locator("output").inner_text()}
    tools.locator("input").fill("")
    choices = {}
    for select in tools.locator("select").all():
        option = select.locator("option").all_inner_texts()[-1]
        select.select_option(option)
        choices[option] = len(here.evaluate(ROWS))
        select.select_option("all")
    more = tools.get_by_role("button", name="Show all")
    if more.is_visible():
        more.click()
    return {**found, "choices": choices, "in_all": len(here.evaluate(ROWS))}


def widths(page: Page) -> dict[str, list[int]]:
    """Return the width of the page's content and of its window, narrow, on a desk, and at 200 percent."""
    found = {}
    for name, size in (("narrow", NARROW), ("zoomed", {"width": 640, "height": 450}), ("wide", WIDE)):
        page.set_viewport_size(size)
        found[name] = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return found


def axe(page: Page) -> list[str]:
    """Return axe's findings with all parts open: on a desk in light, and on a phone in dark."""
    page.evaluate(f"({OPEN})(true)")
    found = []
    for scheme, size in (("light", WIDE), ("dark", NARROW)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        for each in Axe().run(page).response["violations"]:
            places = [node["html"][:200] for node in each["nodes"][:3]]
            found.append(f"{scheme}: {each['id']}, {each['help']}: {places}")
    return found


def printed(page: Page) -> dict[str, object]:
    """Return the number of parts of details that paper lacks, and the size of the document on paper."""
    page.evaluate(f"({OPEN})(false)")
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": A4, "height": 1000})
    found = {
        "hidden_parts": page.evaluate(HIDDEN_PARTS),
        "navigation": page.locator("nav").is_visible(),
        "width": page.evaluate("document.documentElement.scrollWidth"),
        "paper": page.evaluate("getComputedStyle(document.body).backgroundColor"),
        "bytes": len(page.pdf(page_ranges="1-3")),
    }
    page.emulate_media(media="screen", color_scheme="light")
    page.set_viewport_size(WIDE)
    page.evaluate(f"({OPEN})(true)")
    return found


if __name__ == "__main__":
    main()
