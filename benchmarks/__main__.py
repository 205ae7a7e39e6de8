"""Measure the claims about speed: python -m benchmarks [--quick] [--only NAME]."""

import json
import sys
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks.size import FULL, QUICK
from quants.evidence import Finding, host_facts
from quants.progress import progress

NAMES = (
    "kernel",
    "receive",
    "pacing",
    "drawing",
    "monitor",
    "collector",
    "pools",
    "log",
    "saturation",
    "cores",
    "scrapes",
    "latency",
    "risk",
    "endurance",
)
PACKAGES = ("numpy", "aiohttp", "picows", "msgspec", "redis", "uvloop")


@click.command()
@click.option("--quick", is_flag=True, help="A look in a minute, not a verdict.")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Not all.")
@click.option("--json", "file", type=Path, help="Write the findings to this file.")
def main(quick: bool, only: tuple[str, ...], file: Path | None) -> None:
    """Measure each claim and print what was found."""
    host, findings = host_facts(), list[Finding]()
    host["versions"] = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    for name, fact in host.items():
        click.echo(f"{name:12} {fact}")
    names = only or NAMES
    for place, name in enumerate(names):
        with progress(f"{name}, {place + 1} of {len(names)}", len(names)) as advance:
            advance(place)
            benchmark = import_module(f"benchmarks.{name}")
            found = benchmark.measure(QUICK if quick else FULL)
        findings += found
        for finding in found:
            click.echo(f"\n{table(finding)}")
    if file:
        report = {"host": host, "findings": [asdict(each) for each in findings]}
        file.write_text(json.dumps(report, indent=2), encoding="utf-8")
    sys.exit(any(finding.verdict == "REFUTED" for finding in findings))


def table(finding: Finding) -> str:
    """A finding in a few lines."""
    claim = finding.claim
    low, high = 1 / finding.band, finding.band
    lines = [
        claim.text,
        f"  {claim.left:18} {finding.left:>14,.4g} {claim.unit}",
        f"  {claim.right:18} {finding.right:>14,.4g} {claim.unit}",
        f"  {'ratio':18} {finding.ratio:>14.3g} {claim.must} {claim.limit:g}",
        f"  {'A/A band':18} {f'{low:.2f} to {high:.2f}':>14} {finding.pairs} pairs",
        f"  {finding.verdict}",
        *(f"  - {fact}" for fact in finding.facts),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
