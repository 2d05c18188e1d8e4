"""Programs that people run through make or directly: `python -m tools.<name> --help`."""
