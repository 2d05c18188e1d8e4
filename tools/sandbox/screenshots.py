"""Write pictures of the newest card of a pipeline and of the index page, for the documentation.

Needs an environment with Playwright (`make screenshots`); the browser is the machine's own.
"""

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Error

from common import protocol
from common.errors import TaskError
from tools.sandbox import browser, parts

LAKE = parts.ROOT / ".tandem" / "lake"
IMAGES = parts.ROOT / "docs" / "images"
WIDTH, HEIGHT = 1280, 1080  # points of the pictures, that of an index with few runs is shorter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dag", default="daily_recommendations", metavar="ID", help="the pipeline")
    parser.add_argument("--lake", type=Path, default=LAKE, metavar="FOLDER", help="root of a lake of files")
    parser.add_argument(
        "--folder", type=Path, default=IMAGES, metavar="FOLDER", help="folder to write card.png, reports.png"
    )
    arguments = parser.parse_args()
    reports = arguments.lake.resolve() / protocol.REPORTS
    cards = sorted((reports / "cards" / protocol.encode(arguments.dag)).glob("*/*.html"))
    if not cards:
        sys.exit(f"{reports} has no card of {arguments.dag}; run the pipeline first, such as by make demo.")
    pictures = {"card.png": cards[-1], "reports.png": reports / "index.html"}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        with browser.opened(WIDTH, HEIGHT, color_scheme="light", device_scale_factor=1.5) as page:
            for name, file in pictures.items():
                page.goto(file.as_uri())
                height = min(page.evaluate("document.documentElement.scrollHeight"), HEIGHT)
                clip = {"x": 0, "y": 0, "width": WIDTH, "height": height}
                page.screenshot(path=arguments.folder / name, full_page=True, clip=clip)
                print(f"{arguments.folder / name} shows {file}.")
    except (TaskError, Error) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
