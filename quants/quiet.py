"""A library's loggers, turned down: what a stranger sends is no error of ours.

aiohttp logs a traceback for every broken request, picows a line. On a port that
somebody scans these would fill the terminal; with --debug they can be read.
"""

import logging
from typing import Any


class Quiet(logging.LoggerAdapter[logging.Logger]):
    """A logger for a library, whose every record is one of level DEBUG."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))

    def log(self, level: int, msg: object, *args: object, **rest: Any) -> None:
        """Log at DEBUG, whatever the level."""
        super().log(logging.DEBUG, msg, *args, **rest)
