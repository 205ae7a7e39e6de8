"""The commands around the notebooks: open them, and take home what you solved."""

import json
import os
import re
import signal
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from zipfile import ZIP_DEFLATED, ZipFile

import click

from quants.clone import (
    COPIES,
    MINE,
    NUMBERED,
    ORIGINALS,
    Copies,
    clone_around,
    mine_for,
    refusal,
)
from quants.doctor import is_free
from quants.errors import EnvironmentFault, SettingsError
from quants.host import free_port
from quants.lab_server import jupyter_lab, refuse_without_jupyterlab
from quants.sentences import one_sentence
from quants.serve import PORT

# lab -------------------------------------------------------------------------


@click.command()
@click.argument("notebook", required=False)
@click.option(
    "--fresh", metavar="NOTEBOOK", multiple=True,
    help="Copy this one anew; your copy is kept beside it.",
)  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Print the address, open nothing.")
@PORT
def lab(
    notebook: str | None, fresh: Sequence[str], no_browser: bool, port: int
) -> None:
    """Open a notebook in JupyterLab: a copy, yours to change.

    \b
    quants lab                  notebook 00
    quants lab 05               the one that begins with 05
    quants lab --fresh 05       05 as it came; what you made of it is kept

    The first start copies notebooks/ to my-notebooks/. No copy is ever written
    to again but by you, so pull what is new without fear: a start says which
    notebooks have changed since you got yours.

    Ctrl-C ends JupyterLab and all that its notebooks have started; only what
    you have saved stays. JupyterLab listens on this machine alone. It asks
    nothing about news and looks for no updates.
    """
    with one_sentence(stopped="stopped"):
        copies = Copies(clone_here())
        opened = copies.named(notebook or next(iter(fresh), "00"))
        renewed = [copies.named(words) for words in fresh]
        refuse_without_jupyterlab()
        at = port_for(port)
        for line in prepared(copies, renewed):
            click.echo(line)
        click.echo("JupyterLab starts")
        with ended_by_signals(), jupyter_lab(copies.clone, at) as server:
            url = server.url(f"{COPIES}/{opened}")
            click.echo(f"{url}\nCtrl-C ends it; what you saved stays in {COPIES}/")
            if not no_browser:  # one that stays in front must not keep us waiting
                Thread(target=webbrowser.open, args=(url,), daemon=True).start()
            server.wait_until_it_ends()
        click.echo("JupyterLab and its notebooks have ended")


def clone_here() -> Path:
    """The clone that we are in.

    Raises:
        EnvironmentFault: we are in none.
    """
    if (clone := clone_around(Path.cwd())) is None:
        raise EnvironmentFault(
            f"no {ORIGINALS}/ of Quants-in-Motion here or above; cd to your clone of "
            "the repository, they come with it"
        )
    return clone


def port_for(port: int) -> int:
    """The port asked for, or a free one.

    Raises:
        EnvironmentFault: somebody listens on it.
    """
    if port and not is_free(port):
        raise EnvironmentFault(f"port {port} is taken; --port 0 takes a free one")
    return port or free_port()


def prepared(copies: Copies, renewed: Sequence[str]) -> Iterator[str]:
    """Make the copies that are wanted; a sentence for what was done, or is due."""
    for name in renewed:
        kept = copies.refresh(name)
        yield f"{COPIES}/{name} is as it came" + f"; yours is {kept}" * bool(kept)
    if made := copies.copy_missing():
        yield f"{len(made)} of {len(copies.sums)} notebooks copied to {COPIES}/"
    if due := [name[:2] for name in copies.outdated()]:
        yield (
            f"changed in {ORIGINALS}/ since you got yours: {', '.join(due)}; "
            f'"quants lab --fresh {due[0]}" gets that one and keeps yours beside it'
        )


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the block, quietly, on Ctrl-C, SIGTERM or a terminal that is closed.

    What is ignored, such as SIGHUP under nohup, stays ignored.
    """
    known = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
    numbers = [n for n in known if n and signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(n, signal.default_int_handler) for n in numbers]
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, previous in zip(numbers, before, strict=True):
            signal.signal(number, previous)


# mine ------------------------------------------------------------------------


@click.command()
@click.option(
    "--zip", "file", type=click.Path(path_type=Path), metavar="FILE",
    help="Put them into a zip, to take home.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def mine(file: Path | None, force: bool) -> None:
    """List the exercises you have solved, or take them home.

    The notebooks keep right answers in mine/.

    \b
    quants mine                     which are solved, which are open
    quants mine --zip mine.zip      all that you solved, in one file

    On Binder, where nothing lasts, call it in a terminal of JupyterLab; the file
    browser on the left downloads the zip. At home unzip it at the top of your
    clone: the notebooks find your answers again.
    """
    with one_sentence(stopped="stopped"):
        clone, folder = clone_around(Path.cwd()), mine_for(Path.cwd())
        asked = exercises(clone / ORIGINALS) if clone else {}
        solved = sorted(folder.glob("*.py"))
        none = f"no exercise is solved yet; right answers are kept in {folder}"
        if not solved and file:
            raise EnvironmentFault(none)
        if not solved:
            click.echo(none)
        elif file:
            pack(solved, file, force)
            click.echo(f"{file}: {', '.join(answer.stem for answer in solved)}")
        else:
            click.echo("\n".join(lines(solved, asked)))


def exercises(notebooks: Path) -> Mapping[str, str]:
    """The number of the notebook in which each exercise is checked, by its name."""
    asked = {}
    for notebook in sorted(notebooks.glob(NUMBERED)):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        code = "\n".join(
            "".join(c["source"]) for c in cells if c["cell_type"] == "code"
        )
        for name in re.findall(r"^check\((\w+)\)", code, re.M):
            asked[name] = notebook.name[:2]
    return asked


def lines(solved: Sequence[Path], asked: Mapping[str, str]) -> Iterator[str]:
    """What is solved and what is open, in the notebooks' order."""
    answers = {answer.stem: answer for answer in solved}
    for name in [*asked, *(name for name in answers if name not in asked)]:
        yield f"{asked.get(name, '  ')}  {name:16} {answers.get(name, 'open')}"


def pack(answers: Sequence[Path], file: Path, force: bool) -> None:
    """Write answers to a zip that has them in mine/: all of them, or no file.

    Raises:
        SettingsError: the file is there.
        EnvironmentFault: it cannot be written.
    """
    if file.exists() and not force:
        raise SettingsError("zip", file, "it is there; --force replaces it")
    part = file.with_name(f"{file.name}.part")
    with refusal(file):
        try:
            with ZipFile(part, "w", ZIP_DEFLATED, strict_timestamps=False) as packed:
                for answer in answers:
                    packed.write(answer, f"{MINE}/{answer.name}")
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
