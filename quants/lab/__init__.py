"""What only the notebooks need: live pictures, guesses, verdicts, exercises."""

from quants.lab import bell
from quants.lab.address import metrics_url
from quants.lab.board import check, solved, verdict
from quants.lab.card import host_card
from quants.lab.guess import guess
from quants.lab.session import close
from quants.lab.source import show, show_diff

__all__ = [
    "bell",
    "check",
    "close",
    "guess",
    "host_card",
    "metrics_url",
    "show",
    "show_diff",
    "solved",
    "verdict",
]
