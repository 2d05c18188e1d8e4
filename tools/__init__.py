"""What people run by hand or through make: `python -m tools.<name> --help`."""
