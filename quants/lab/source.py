"""Source as shipped, on the page: a function, or the diff of two."""

import inspect
from collections.abc import Callable
from difflib import unified_diff
from textwrap import dedent
from typing import Any

from IPython.display import Markdown

from quants.errors import QuantsError

LINES, COLUMNS = 20, 76  # what a reader takes in without scrolling
CHANGES = 12  # lines; more is two lessons


class TooLong(QuantsError):
    """A function or a diff that a page cannot hold."""


def show(function: Callable[..., Any]) -> Markdown:
    """A function as it is shipped.

    Raises:
        TooLong: it has more than 20 lines, or one of more than 76 columns.
    """
    return Markdown(f"```python\n{fitting(function)}\n```")


def show_diff(before: Callable[..., Any], after: Callable[..., Any]) -> Markdown:
    """What changes from one function to another.

    Raises:
        TooLong: one of them does not fit, or more than 12 lines change.
    """
    old, new = fitting(before).splitlines(), fitting(after).splitlines()
    lines = [*unified_diff(old, new, n=LINES, lineterm="")][3:]
    changes = sum(line[0] in "+-" for line in lines)
    if changes > CHANGES:
        raise TooLong(f"{changes} changed lines, {CHANGES} fit: make two lessons of it")
    return Markdown("```diff\n" + "\n".join(lines) + "\n```")


def fitting(function: Callable[..., Any]) -> str:
    """The function's source without its indentation, if it fits."""
    source = dedent(inspect.getsource(function)).rstrip()
    lines = source.splitlines()
    widest = max(map(len, lines))
    if len(lines) > LINES or widest > COLUMNS:
        raise TooLong(
            f"{function.__qualname__}: {len(lines)} lines of up to {widest} columns; "
            f"{LINES} of {COLUMNS} fit on a page"
        )
    return source
