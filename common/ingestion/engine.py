"""The engine of this process: its module for parsing events, with the same functions."""

from typing import TYPE_CHECKING

from common.engines.light.activate import active

if TYPE_CHECKING or not active():
    from common.ingestion.spark import parsing
else:
    from common.ingestion.light import parsing

__all__ = ["parsing"]
