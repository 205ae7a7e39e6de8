"""Every error of the package: one tree, each names both sides and the way out.

QuantsError
├── SettingsError      an option's value cannot work           (exit code 2)
├── InexactValue       a decimal that fixed point cannot hold  (exit code 2)
├── RecordingError     a file of trades that cannot be ticks   (exit code 2)
├── EnvironmentFault   a port, disk, Redis or feed said no     (exit code 1)
├── FrameError         bytes that are not what the wire promised
├── CorruptLog         a tick log whose bytes cannot be trusted
├── StageFailed        a consumer raised or hung too often
├── RedisFault         a call to Redis that was not answered as it should
│   └── NotAsked       Redis is away, or too many calls wait already
├── EmptyBatch         VWAP of nothing is undefined
└── StaleLease         a pooled object used after its release

An expected end (a client left, a task was cancelled) is none of these.
"""


class QuantsError(Exception):
    """Root of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1


class SettingsError(QuantsError):
    """A setting that cannot work, named with its value and a way out.

    Args:
        name: the setting, as on the command line without dashes.
        value: what was given.
        reason: what would work.
    """

    exit_code = 2

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(f"{name}={value}: {reason}")
        self.name, self.value, self.reason = name, value, reason


class InexactValue(QuantsError):
    """A decimal text with more digits than its symbol's fixed point holds."""

    exit_code = 2

    def __init__(self, text: str, decimals: int) -> None:
        super().__init__(f"{text!r} is not exact at {decimals} decimals")
        self.text, self.decimals = text, decimals


class RecordingError(QuantsError):
    """A file of trades that cannot be replayed exactly, and the line at fault.

    Args:
        path: the file.
        line: its number, from 1 on; None if it is the file as a whole.
        reason: what is wrong, and the way out.
    """

    exit_code = 2

    def __init__(self, path: object, line: int | None, reason: str) -> None:
        where = f"{path}: " if line is None else f"{path} line {line}: "
        super().__init__(where + reason)
        self.path, self.line, self.reason = path, line, reason


class EnvironmentFault(QuantsError):
    """The machine or a server refused: port, disk, Redis, feed."""


class FrameError(QuantsError):
    """A frame that was refused: what was expected, what came.

    Args:
        part: magic, version, kind, length, CRC or symbol: the counter's label.
        expected: what the protocol promises.
        received: what the bytes say.
    """

    def __init__(self, part: str, expected: object, received: object) -> None:
        super().__init__(f"frame {part}: expected {expected}, received {received}")
        self.part, self.expected, self.received = part, expected, received


class CorruptLog(QuantsError):
    """A tick log with bytes that fail their checksum, and where."""


class StageFailed(QuantsError):
    """A consumer that no restart helped, or whose fault none could help.

    Args:
        name: vwap, log or risk.
        restarts: how often it was tried.
        fault: the last one.
    """

    def __init__(self, name: str, restarts: int, fault: BaseException) -> None:
        super().__init__(
            f"{name} failed after {restarts} restarts: {fault!r}; what the others "
            "have done is in the report, --debug shows where it failed"
        )
        self.name, self.restarts, self.fault = name, restarts, fault


class RedisFault(QuantsError):
    """A call to Redis that failed: what Redis said, or why it said nothing."""


class NotAsked(RedisFault):
    """A call to Redis that was refused before it was made."""


class EmptyBatch(QuantsError):
    """VWAP needs volume: no tick, or none with a size, has no price."""


class StaleLease(QuantsError):
    """A lease was used after its release: the tick is somebody else's now."""


def our_own(fault: BaseException) -> QuantsError | None:
    """The error of ours that a fault is, or that its group contains."""
    if isinstance(fault, BaseExceptionGroup):
        found = filter(None, map(our_own, fault.exceptions))
        return next(found, None)
    return fault if isinstance(fault, QuantsError) else None


def sole(fault: BaseException) -> BaseException:
    """What a group of one, or of a group of one, is about."""
    while isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
        fault = fault.exceptions[0]
    return fault
