"""The library of all DAGs: pipelines of jobs, and the runtimes that run them."""

import importlib
from typing import Any

__all__ = ["Pipeline"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module("tandem.pipeline").Pipeline
    raise AttributeError(f"module 'tandem' has no attribute '{name}'")
