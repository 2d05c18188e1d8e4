"""Check all sources of this checkout and the tracking plan, as the jobs do when they start."""

from common import sources
from common.sources import source, tracking_plan
from tools.command_line import exit_on_task_error


@exit_on_task_error()
def main() -> None:
    tracking_plan.load()
    for kind in source.COLUMNS:
        if any((folder / f"{kind}.toml").is_file() for folder in sources.folder().iterdir()):
            source.load(kind)


if __name__ == "__main__":
    main()
