"""Settings of a run: each field is one option, its only default and its check.

The command line is made from these fields, so an option and a setting cannot
differ. Settings are known to the wiring alone; below it, a stage gets the
plain numbers it needs.
"""

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from quants.errors import SettingsError
from quants.host import available_cores

CORES = available_cores()
EngineChoice = Literal[
    "auto", "inline", "threads", "processes", "shared", "interpreters"
]


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    way_out: str = "",
    env: str = "",
) -> Any:
    """A field that is also a command-line option.

    Args:
        default: the only default there is.
        help: one line for `--help`, with the unit.
        least: the smallest value that can work.
        way_out: what to do about a smaller one.
        env: an environment variable that gives the default.
    """
    return field(
        default=default,
        metadata={"help": help, "least": least, "way_out": way_out, "env": env},
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `quants run` can be told. Raises SettingsError for what cannot work."""

    tick_rate: int = option(
        1000, "Ticks per second of the pump's own feed.",
        least=1, way_out="at least 1 tick per second is needed",
    )  # fmt: skip
    duration: float | None = option(
        None, "Seconds to run, from the first tick on; without it, until Ctrl-C.",
        least=0.001, way_out="a run takes some time; leave it out to run until Ctrl-C",
    )  # fmt: skip
    symbols: int = option(
        8, "Instruments in the pump's own feed.",
        least=1, way_out="at least 1 symbol is needed",
    )  # fmt: skip
    seed: int = option(
        1, "Seed of the market: the same seed gives the same ticks.",
        least=0, way_out="a seed is 0 or more",
    )  # fmt: skip
    wire: Literal["binary", "json"] = option(
        "binary", "Frames of up to 4096 ticks, or one JSON message per tick."
    )
    kernel: Literal["numpy", "python"] = option(
        "numpy", "How VWAP is computed: arrays, or a loop in pure Python."
    )
    cores: int = option(
        1, "Workers to compute VWAP with; 1 computes it on the event loop.",
        least=1, way_out=f"at least 1 process is needed; this machine has {CORES}",
    )  # fmt: skip
    engine: EngineChoice = option(
        "auto", "Where VWAP is computed; auto: inline on one core, else shared."
    )
    pool_size: int = option(
        1000, "Tick objects in the pool that --kernel python reads through.",
        least=1, way_out="a pool of at least 1 tick is needed",
    )  # fmt: skip
    freeze_gc: bool = option(
        False, "Freeze the objects alive after 2 s or 10,000 ticks out of the GC."
    )
    gc_threshold: int | None = option(
        None, "New objects that set off a garbage collection; else as Python has it.",
        least=1, way_out="at least 1 object sets off a collection",
    )  # fmt: skip
    loop: Literal["asyncio", "uvloop"] = option("asyncio", "The event loop to run on.")
    log_file: Path = option(Path("ticks.log"), "The tick log; runs are appended.")
    fsync: Literal["interval", "batch", "none"] = option(
        "interval", "When the log is forced to disk: every 50 ms, each write, never."
    )
    feed_url: str | None = option(
        None, "Follow this feed (ws://host:port/) instead of the pump's own."
    )
    redis_url: str | None = option(
        None, "Redis for limits and alerts; without it one is started.",
        env="QUANTS_REDIS_URL",
    )  # fmt: skip
    risk_threads: int | None = option(
        None, "Threads that may wait for Redis; else as many as its speed asks for.",
        least=2, way_out="at least 2 are needed: one may hang while one goes on",
    )  # fmt: skip
    metrics_port: int = option(
        8080, "Port of /metrics; 0 takes a free one.",
        least=0, way_out="a port is 0 to 65535",
    )  # fmt: skip
    host: str = option(
        "127.0.0.1", "Address to serve on; any but loopback needs QUANTS_TOKEN."
    )
    report: Path | None = option(None, "Write the run report to this file, as JSON.")
    profile: Path | None = option(
        None, "Sample where the main thread is, into this file; .json: speedscope."
    )
    debug: bool = option(False, "Debug records on stderr, asyncio debug, tracebacks.")

    def __post_init__(self) -> None:
        for each in fields(self):
            self._check(each)
        if self.metrics_port > 65535:
            port = self.metrics_port
            raise SettingsError("metrics-port", port, "a port is 0 to 65535")
        if self.engine == "inline" and self.cores > 1:
            reason = (
                f"it computes on one core, cores={self.cores}; leave one of them out"
            )
            raise SettingsError("engine", self.engine, reason)
        if self.feed_url is None:
            return
        if not self.feed_url.startswith(("ws://", "wss://")):
            raise SettingsError("feed-url", self.feed_url, "a feed is ws://host:port/")
        for name in ("tick_rate", "symbols", "seed"):
            if getattr(self, name) != Settings.__dataclass_fields__[name].default:
                raise SettingsError(
                    name.replace("_", "-"), getattr(self, name),
                    f"the feed at {self.feed_url} decides that; leave it out",
                )  # fmt: skip

    def _check(self, each: Field[Any]) -> None:
        value, name = getattr(self, each.name), each.name.replace("_", "-")
        least = each.metadata["least"]
        if least is not None and value is not None and not value >= least:
            raise SettingsError(name, value, each.metadata["way_out"])
        allowed = choices(each.name)
        if allowed and value not in allowed:
            raise SettingsError(name, value, f"one of {', '.join(allowed)}")


def choices(name: str) -> tuple[str, ...]:
    """What a setting may be, where that is a fixed list; else empty."""
    kind = get_type_hints(Settings)[name]
    allowed = get_args(kind)
    return allowed if allowed and all(isinstance(a, str) for a in allowed) else ()
