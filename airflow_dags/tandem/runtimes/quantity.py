"""Quantities of CPU and memory in the notation of job.toml and Kubernetes."""

import string

UNITS = {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str) -> float:
    """The number that a text such as 500m, 2, 512Mi or 4Gi denotes."""
    number = text.rstrip(string.ascii_letters)
    return float(number) * UNITS[text.removeprefix(number)]
