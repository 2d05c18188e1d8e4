"""The engine of this process: its modules for sessions, files, buckets and expressions, with the same functions."""

from typing import TYPE_CHECKING

from common.engines.light.activate import active

if TYPE_CHECKING or not active():
    from common.engines.spark import buckets, expressions, files, session
else:
    from common.engines.light import buckets, expressions, files, session

__all__ = ["buckets", "expressions", "files", "session"]
