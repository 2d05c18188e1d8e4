"""Quantities of processor and memory, as job.toml and Kubernetes write them."""

import string

UNITS = {"m": 1e-3, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str) -> float:
    """The number that a text such as 500m, 2, 512Mi or 4Gi stands for."""
    number = text.rstrip(string.ascii_letters)
    return float(number) * UNITS[text.removeprefix(number)]
