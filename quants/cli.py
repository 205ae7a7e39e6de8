"""The command line: one option, one Settings field, one constructor."""

import asyncio
import json
import traceback
from collections.abc import Callable
from dataclasses import Field, fields
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from quants.alert_commands import alerts
from quants.bench import bench
from quants.commands import export_log, verify
from quants.debug import debug_records
from quants.doctor import doctor
from quants.errors import SettingsError, our_own
from quants.host import stop_signals
from quants.lab_commands import lab, mine
from quants.limit_commands import limits
from quants.outfile import whole_file
from quants.pipeline import Pipeline
from quants.report import report_of, summary_of
from quants.sampler import profiled
from quants.sentences import one_sentence
from quants.serve import feed, replay
from quants.settings import Settings, choices
from quants.view import live_view

EPILOG = """Exit codes: 0 fine; 1 ticks dropped or missing, a stage failed, or the
environment said no; 2 wrong options. Ctrl-C drains, a second one stops now."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """An asynchronous market-data pump that shows what it does."""


main.add_command(verify)
main.add_command(export_log)
main.add_command(feed)
main.add_command(replay)
main.add_command(limits)
main.add_command(alerts)
main.add_command(doctor)
main.add_command(bench)
main.add_command(lab)
main.add_command(mine)


def setting(each: Field[Any]) -> Callable[[Any], Any]:
    """The click option of a Settings field."""
    kind = get_type_hints(Settings)[each.name]
    allowed, meta = choices(each.name), each.metadata
    types = [t for t in (*get_args(kind), kind) if t in (int, float, str, Path)]
    return click.option(
        f"--{each.name.replace('_', '-')}",
        each.name,
        default=each.default,
        type=click.Choice(allowed) if allowed else None if kind is bool else types[0],
        is_flag=kind is bool,
        envvar=meta["env"] or None,
        show_envvar=bool(meta["env"]),
        show_default=each.default not in (None, False),
        help=meta["help"],
        metavar=None if allowed or kind is bool else each.name.upper(),
    )


def settings_options(command: Any) -> Any:
    """Every field of Settings as an option, in the fields' order."""
    for each in reversed(fields(Settings)):
        command = setting(each)(command)
    return command


@main.command(epilog=EPILOG)
@settings_options
def run(**values: Any) -> None:
    """Run the pump: feed, VWAP, tick log, risk and /metrics.

    \b
    quants run --duration 10            ten seconds at 1000 ticks/s
    quants run --tick-rate 50000        20 microseconds a tick
    curl localhost:8080/metrics         while it runs
    """
    with one_sentence(values["debug"]), debug_records(values["debug"]):
        settings = Settings(**values)
        factory = loop_factory(settings.loop)
        with asyncio.Runner(debug=settings.debug, loop_factory=factory) as runner:
            raise SystemExit(runner.run(run_pump(settings)))


async def run_pump(settings: Settings) -> int:
    """Run to the end, print the summary; the exit code."""
    pipeline = Pipeline(settings)
    task = asyncio.current_task()
    assert task is not None
    with whole_file("report", settings.report) as write:
        profile = profiled(settings.profile, partial(click.echo, err=True))
        with profile, stop_signals(pipeline.stop, task.cancel):
            async with live_view(pipeline):
                await run_reported(pipeline)
        report = report_of(pipeline)
        click.echo(summary_of(report, pipeline))
        write(json.dumps(report, indent=2, default=str))
    return 1 if report["problems"] else 0


async def run_reported(pipeline: Pipeline) -> None:
    """Run; what ends it once it is open goes into the report."""
    try:
        await pipeline.run()
    except Exception as error:
        fault = our_own(error)
        if fault is None or not pipeline.ready.is_set():
            raise
        if pipeline.settings.debug:
            traceback.print_exception(error)
        click.echo(f"quants: {fault}", err=True)
        pipeline.faults.append(str(fault))


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop.

    Raises:
        SettingsError: uvloop is not installed; there is none for Windows.
    """
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        raise SettingsError(
            "loop", name, "it is not installed here; pip install uvloop, or asyncio"
        ) from error
    return uvloop.new_event_loop
