"""A market-data pump that teaches asyncio, the GIL, memory and measurement.

from quants import Market, FeedServer, subscribe, fan_out, Vwap

A name's module is imported when the name is first used: a worker process that
only needs a kernel starts in half the time and half the memory.
"""

from importlib import import_module
from typing import Any

PUBLIC = {
    "Market": "market",
    "FeedServer": "feed_server",
    "subscribe": "feed_client",
    "Channel": "channel",
    "fan_out": "channel",
    "Vwap": "vwap",
    "TickLog": "ticklog",
    "Monitor": "monitor",
    "Pipeline": "pipeline",
    "Settings": "settings",
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"quants has no {name}; it has {', '.join(PUBLIC)}")
    return getattr(import_module(f"quants.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
