"""Erlang's theory of those who wait: how long a call stays at c threads.

Calls come by chance (M), are served for times by chance (M), both exponential,
by c threads in the order of arrival: M/M/c.

Source: L. Kleinrock, Queueing Systems, volume 1 (1975), chapter 3.
"""

import math


def sojourn(threads: int, busy: float) -> float:
    """How many times longer than its service a call stays: M/M/c.

    Erlang's formulas: `lost` is the chance that a call finds no thread
    free and goes away (B), `waits` that it waits instead (C).
    """
    load, lost = threads * busy, 1.0
    for n in range(1, threads + 1):
        lost = load * lost / (n + load * lost)
    waits = lost / (1 - busy * (1 - lost))
    return 1 + waits / (threads * (1 - busy))


def enough(rate: float, seconds: float, longer: float = 1.1) -> int:
    """The fewest threads with which calls stay hardly longer than served."""
    inside = rate * seconds
    threads = math.floor(inside) + 1
    while sojourn(threads, inside / threads) > longer:
        threads += 1
    return threads
