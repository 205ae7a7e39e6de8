"""Errors at the command line: one sentence and an exit code, no traceback."""

import asyncio
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from quants.errors import QuantsError, our_own


@contextmanager
def one_sentence(
    debug: bool = False, stopped: str = "stopped at once, not drained"
) -> Iterator[None]:
    """End on an error with its sentence and exit code.

    Args:
        debug: show it all.
        stopped: what Ctrl-C says.
    """
    try:
        yield
    except* QuantsError as group:
        error = our_own(group)
        assert error is not None  # the group has nothing else
        if debug:
            traceback.print_exception(group)
        click.echo(f"quants: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except* (KeyboardInterrupt, asyncio.CancelledError):
        click.echo(f"quants: {stopped}", err=True)
        raise SystemExit(1) from None
