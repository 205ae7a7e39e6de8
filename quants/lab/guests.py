"""Clients that come and go, and what they leave behind."""

BUFFER_BYTES = 5_000


class Guests:
    """Counts the clients that came, and those whose memory was given back."""

    def __init__(self) -> None:
        self.came = self.gone = 0

    @property
    def here(self) -> int:
        """How many still take memory."""
        return self.came - self.gone

    @property
    def megabytes(self) -> float:
        """What they take."""
        return self.here * BUFFER_BYTES / 1e6


class Client:
    """One that is told of ticks: `told` refers to it, and it refers to `told`."""

    def __init__(self, guests: Guests) -> None:
        self.guests, self.buffer = guests, bytearray(BUFFER_BYTES)
        self.told = self.take  # client -> method -> client: a cycle
        guests.came += 1

    def take(self, tick: int) -> None:
        """Keep what comes."""
        self.buffer[tick % BUFFER_BYTES] = tick % 256

    def close(self) -> None:
        """Cut the cycle."""
        del self.told

    def __del__(self) -> None:
        self.guests.gone += 1
