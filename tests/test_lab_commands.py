"""`quants lab` and `quants mine`: copies stay, and JupyterLab leaves nothing."""

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from zipfile import ZipFile

import psutil
import pytest
from click.testing import CliRunner, Result

from quants import lab_server
from quants.cli import main
from quants.clone import FIRST, Copies, mine_for
from quants.errors import EnvironmentFault, SettingsError
from quants.host import free_port
from quants.lab.board import EXERCISES
from quants.lab.conservation import CONSERVED
from quants.lab_commands import ended_by_signals, exercises, prepared
from quants.lab_server import jupyter_lab

ROOT = Path(__file__).parent.parent
QUANTS = [sys.executable, "-m", "quants"]
DEADLINE = 120.0  # seconds; a start takes 3, on a busy machine 20
SECOND = "05_taking_turns.ipynb"

posix = pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signal")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with two of the real notebooks."""
    folder = tmp_path / "clone"
    (folder / "notebooks").mkdir(parents=True)
    for name in (FIRST, SECOND):
        shutil.copy(ROOT / "notebooks" / name, folder / "notebooks")
    return folder


@pytest.fixture
def inside(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and we are in it."""
    monkeypatch.chdir(clone)
    return clone


def called(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def text(file: Path, new: str | None = None) -> str:
    if new is not None:
        file.write_text(new, encoding="utf-8")
    return file.read_text(encoding="utf-8")


# ---- copies


def test_a_copy_is_what_its_notebook_is_and_is_made_once(clone: Path):
    copies = Copies(clone)
    assert copies.copy_missing() == [FIRST, SECOND]
    for name in (FIRST, SECOND):
        original = (clone / "notebooks" / name).read_bytes()
        assert (copies.folder / name).read_bytes() == original
    text(copies.folder / SECOND, "my work")
    assert Copies(clone).copy_missing() == []
    assert text(copies.folder / SECOND) == "my work"


def test_a_notebook_that_changed_is_named_and_the_copy_is_left_alone(clone: Path):
    assert [*prepared(Copies(clone), [])] == [
        "2 of 2 notebooks copied to my-notebooks/"
    ]
    assert [*prepared(Copies(clone), [])] == []
    text(clone / "my-notebooks" / SECOND, "my work")
    assert [*prepared(Copies(clone), [])] == []
    text(clone / "notebooks" / SECOND, "pulled")
    assert [*prepared(Copies(clone), [])] == [
        'changed in notebooks/ since you got yours: 05; "quants lab --fresh 05" gets '
        "that one and keeps yours beside it"
    ]
    assert text(clone / "my-notebooks" / SECOND) == "my work"


def test_a_fresh_copy_keeps_each_old_one_beside_it(clone: Path):
    copies, mine = Copies(clone), clone / "my-notebooks"
    copies.copy_missing()
    for work in ("first", "second"):
        text(mine / SECOND, work)
        text(clone / "notebooks" / SECOND, f"pulled after {work}")
        (said,) = prepared(Copies(clone), [SECOND])
    assert said == (
        "my-notebooks/05_taking_turns.ipynb is as it came; "
        "yours is 05_taking_turns_kept_2.ipynb"
    )
    assert text(mine / SECOND) == "pulled after second"
    assert text(mine / "05_taking_turns_kept_1.ipynb") == "first"
    assert text(mine / "05_taking_turns_kept_2.ipynb") == "second"
    assert Copies(clone).outdated() == []


def test_a_notebook_that_is_new_is_copied_at_the_next_start(clone: Path):
    Copies(clone).copy_missing()
    text(clone / "notebooks" / "07_new.ipynb", "{}")
    assert Copies(clone).copy_missing() == ["07_new.ipynb"]
    (clone / "my-notebooks" / "07_new.ipynb").unlink()
    assert Copies(clone).copy_missing() == ["07_new.ipynb"]


@pytest.mark.parametrize("record", [None, "", "[]", '{"05_taking_turns.ipynb": 5'])
def test_copies_without_a_record_count_as_those_of_today(clone: Path, record):
    shutil.copytree(clone / "notebooks", clone / "my-notebooks")
    if record is not None:
        text(clone / "my-notebooks" / ".copied-from.json", record)
    text(clone / "my-notebooks" / SECOND, "my work")
    assert [*prepared(Copies(clone), [])] == []
    text(clone / "notebooks" / SECOND, "pulled")
    assert Copies(clone).outdated() == [SECOND]


@pytest.mark.parametrize("words", ["05", "5", "05_taking", f"notebooks/{SECOND}"])
def test_a_number_or_the_start_of_a_name_is_a_notebook(clone: Path, words: str):
    assert Copies(clone).named(words) == SECOND


@pytest.mark.parametrize("words", ["17", "taking", "0", "00_the_bell_rings.py", "-"])
def test_what_is_no_notebook_is_refused_with_those_there_are(clone: Path, words: str):
    copies = Copies(clone)
    if words == "0":
        assert copies.named(words) == FIRST
        return
    with pytest.raises(SettingsError, match=f"notebook={words}: name one of 00, 05"):
        copies.named(words)


def test_a_disk_that_refuses_copies_is_one_sentence(clone: Path):
    text(clone / "my-notebooks", "a file in the way")
    with pytest.raises(EnvironmentFault, match=r"my-notebooks: File exists; a place"):
        Copies(clone).copy_missing()


# ---- what it says no to


def test_outside_of_a_clone_it_says_where_to_go(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = called("lab")
    assert said.exit_code == 1
    assert said.output == (
        "quants: no notebooks/ of Quants-in-Motion here or above; cd to your clone of "
        "the repository, they come with it\n"
    )


def test_without_jupyterlab_it_says_what_to_install(inside: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    said = called("lab")
    assert said.exit_code == 1
    assert said.output == (
        "quants: JupyterLab is not installed beside this Python; "
        'pip install "quants-in-motion[lab]"\n'
    )
    assert not (inside / "my-notebooks").exists()


def test_a_taken_port_is_named_with_the_way_out(inside: Path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = called("lab", "--port", str(port))
    assert said.exit_code == 1
    assert said.output == (f"quants: port {port} is taken; --port 0 takes a free one\n")
    assert not (inside / "my-notebooks").exists()


def test_a_notebook_that_is_not_there_is_refused(inside: Path):
    said = called("lab", "--fresh", "17")
    assert (said.exit_code, said.output) == (
        2, "quants: notebook=17: name one of 00, 05\n",
    )  # fmt: skip


def test_the_command_line_starts_without_what_only_notebooks_need():
    heavy = "{'matplotlib', 'ipywidgets', 'IPython', 'jupyterlab', 'quants.lab'}"
    code = f"import sys, quants.cli; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "set()\n"


# ---- JupyterLab


@contextmanager
def started(clone: Path, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """`quants lab` with Jupyter folders of its own, ended whatever happens."""
    aside = clone.parent
    environment = os.environ | more | {"TMPDIR": str(aside), "HOME": str(aside)}
    for name in ("_CONFIG", "_DATA", "_RUNTIME", "LAB_SETTINGS"):
        folder = aside / f"jupyter_{name.strip('_').lower()}"
        environment[f"JUPYTER{name}_DIR"] = str(folder)
    with subprocess.Popen(
        [*QUANTS, "lab", *words], cwd=clone, env=environment, bufsize=1,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            if child.poll() is None:
                below = psutil.Process(child.pid).children(recursive=True)
                child.kill()
                for each in below:
                    each.kill()


def said_until(child: subprocess.Popen[str], words: str) -> list[str]:
    """The lines up to the one that has the words; a start has its own deadline."""
    assert child.stdout
    lines = []
    for line in child.stdout:
        lines.append(line.rstrip("\n"))
        if words in line:
            return lines
    raise AssertionError(lines)


def answer(url: str, token: str = "", body: bytes | None = None) -> str:
    headers = {"Authorization": f"token {token}"} if token else {}
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return str(reply.read().decode())


def until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fake_browser(folder: Path) -> Path:
    """A browser that writes down what it was asked to open."""
    browser = folder / "browser"
    text(browser, f'#!/bin/sh\necho "$1" > "{folder}/opened"\n')
    browser.chmod(0o755)
    return browser


@posix
def test_one_ctrl_c_ends_jupyterlab_and_every_kernel_and_leaves_nothing(
    clone: Path, tmp_path: Path
):
    browser = fake_browser(tmp_path)
    with started(clone, "5", BROWSER=f"{browser} %s") as child:
        *_, url, how = said_until(child, "Ctrl-C ends it")
        site, token = re.fullmatch(
            rf"(http://127\.0\.0\.1:\d+/)lab/workspaces/\w+/tree/my-notebooks/{SECOND}"
            r"\?token=(\w+)",
            url,
        ).groups()  # type: ignore[union-attr]
        assert how.endswith("what you saved stays in my-notebooks/")
        until((tmp_path / "opened").exists)
        until(lambda: text(tmp_path / "opened") == f"{url}\n")

        page = answer(url)
        assert '"news": {"disabled": true}' in page
        with pytest.raises(HTTPError, match="403"):
            answer(f"{site}api/contents/my-notebooks")
        found = json.loads(answer(f"{site}api/contents/my-notebooks/{SECOND}", token))
        assert found["type"] == "notebook"
        plugin = "@jupyterlab/apputils-extension:notification"
        settings = json.loads(answer(f"{site}lab/api/settings/{plugin}", token))
        defaults = settings["schema"]["properties"]
        assert defaults["fetchNews"]["default"] == "false"
        assert defaults["checkForUpdates"]["default"] is False

        kernel = json.loads(answer(f"{site}api/kernels", token, b"{}"))["id"]
        until(lambda: kernel in " ".join(commands_below(child.pid)))
        below = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=DEADLINE)
        assert (child.returncode, rest) == (
            0, "JupyterLab and its notebooks have ended\n",
        )  # fmt: skip
        assert [each for each in below if each.is_running()] == []
    with pytest.raises(OSError, match="refused"):
        answer(f"{site}api")
    assert [*tmp_path.glob("quants-jupyter-*")] == []


def commands_below(pid: int) -> list[str]:
    """The command lines of all that a process has started."""
    children = psutil.Process(pid).children(recursive=True)
    return [" ".join(child.cmdline()) for child in children]


@posix
def test_ctrl_c_during_the_start_is_as_quiet(clone: Path, tmp_path: Path):
    with started(clone, "--no-browser") as child:
        assert said_until(child, "JupyterLab starts")
        until(lambda: "jupyterlab" in " ".join(commands_below(child.pid)))
        below = psutil.Process(child.pid).children(recursive=True)
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=DEADLINE)
        assert (child.returncode, rest) == (
            0, "JupyterLab and its notebooks have ended\n",
        )  # fmt: skip
        assert [each for each in below if each.is_running()] == []
    assert [*tmp_path.glob("quants-jupyter-*")] == []


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_that_ends_us_ends_the_block_quietly(name: str):
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = [signal.getsignal(number) for number in numbers]
    reached = []
    with ended_by_signals():
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(DEADLINE)
        reached.append("the end of the block")
    assert reached == []
    assert [signal.getsignal(number) for number in numbers] == before


@posix
def test_under_nohup_a_closed_terminal_ends_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        reached = []
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            reached.append("the end of the block")
        assert reached
    finally:
        signal.signal(signal.SIGHUP, before)


STUBBORN = """
import http.server, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                 start_new_session=True)
class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"version": "0"}')
(port,) = (a.split("=")[1] for a in sys.argv if a.startswith("--ServerApp.port="))
http.server.HTTPServer(("127.0.0.1", int(port)), Api).serve_forever()
"""


@pytest.fixture
def instead_of_jupyterlab(tmp_path: Path, monkeypatch) -> Callable[[str], None]:
    """Puts a program in JupyterLab's place."""

    def put(program: str) -> None:
        package = tmp_path / "instead" / "jupyterlab"
        package.mkdir(parents=True)
        text(package / "__init__.py", "")
        text(package / "__main__.py", program)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))

    return put


@posix
def test_a_jupyterlab_that_will_not_end_is_ended_with_its_children(
    instead_of_jupyterlab, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(lab_server, "END_SECONDS", 0.2)
    instead_of_jupyterlab(STUBBORN)
    with jupyter_lab(tmp_path, free_port()) as server:
        us = psutil.Process(server.child.pid)
        below = us.children(recursive=True)
        assert len(below) == 1
    assert not us.is_running()
    psutil.wait_procs(below, DEADLINE)
    assert not below[0].is_running()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('no such thing')", "no such thing (exit code 1)"),
        ("raise SystemExit(3)", "it said nothing (exit code 3)"),
    ],
)
def test_a_jupyterlab_that_does_not_start_is_quoted(
    instead_of_jupyterlab, inside: Path, program: str, words: str
):
    instead_of_jupyterlab(program)
    said = called("lab", "--no-browser")
    assert said.exit_code == 1
    assert said.output.endswith(f"quants: JupyterLab did not start: {words}\n")


# Answers once, and ends.
SHUT_DOWN = """
import socket, sys
(port,) = (a.split("=")[1] for a in sys.argv if a.startswith("--ServerApp.port="))
connection, _ = socket.create_server(("127.0.0.1", int(port))).accept()
connection.recv(4096)
connection.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n{"version": "0"}')
connection.close()
sys.exit(CODE)
"""


@pytest.mark.parametrize(
    ("code", "last"),
    [
        (0, "JupyterLab and its notebooks have ended"),
        (9, "quants: JupyterLab ended: it said nothing (exit code 9)"),
    ],
)
def test_it_may_be_ended_from_its_own_menu(
    instead_of_jupyterlab, inside: Path, code: int, last: str
):
    instead_of_jupyterlab(SHUT_DOWN.replace("CODE", str(code)))
    said = called("lab", "--no-browser")
    assert said.output.splitlines()[-1] == last
    assert said.exit_code == bool(code)


# ---- mine


def answer_of_mine(snapshot):
    """Right, and written with a name that another cell imported."""
    return all(
        each.received
        == math.fsum([each.processed, each.dropped, each.conflated, each.queued])
        for each in snapshot.consumers.values()
    )


def keep_mine() -> str:
    """Check it under the name that the exercise has."""
    answer_of_mine.__name__ = "conserved"
    said = CONSERVED.check(answer_of_mine)
    file = mine_for(Path.cwd()) / "conserved.py"
    text(file, text(file).replace("def answer_of_mine", "def conserved"))
    return said


def test_a_notebook_and_its_copy_keep_answers_in_one_place(clone: Path, monkeypatch):
    for folder in ("notebooks", "my-notebooks"):
        assert mine_for(clone / folder) == mine_for(clone) == clone / "mine"
    (clone / "my-notebooks").mkdir()
    monkeypatch.chdir(clone / "notebooks")
    assert keep_mine().endswith("Kept in mine/conserved.py.")
    monkeypatch.chdir(clone / "my-notebooks")
    assert CONSERVED.solved(lambda snapshot: None)[1] == "yours, kept"
    assert [*clone.rglob("conserved.py")] == [clone / "mine" / "conserved.py"]


@pytest.mark.parametrize("spoilt", ["def conserved(", "1 / 0", "conserved = None"])
def test_a_kept_answer_that_was_spoilt_harms_no_notebook(inside: Path, spoilt: str):
    keep_mine()
    text(inside / "mine" / "conserved.py", spoilt)
    assert CONSERVED.solved(lambda snapshot: None)[1] == "the reference"


def test_outside_of_a_clone_answers_are_kept_beside_the_notebook(tmp_path: Path):
    assert mine_for(tmp_path) == tmp_path / "mine"


def test_git_ignores_what_is_the_readers():
    ignored = text(ROOT / ".gitignore").splitlines()
    assert {"mine/", "my-notebooks/"} <= set(ignored)


def test_every_exercise_of_the_notebooks_is_found_with_its_number():
    asked = exercises(ROOT / "notebooks")
    assert set(asked) <= set(EXERCISES)
    assert list(asked.values()) == sorted(asked.values())
    assert asked["conserved"] == "00"
    assert asked["SharedVwap"] == "05"


@pytest.fixture
def solved(inside: Path) -> Path:
    """A clone in which 05's exercise is solved, and one that nobody asked for."""
    (inside / "mine").mkdir()
    text(inside / "mine" / "SharedVwap.py", "class SharedVwap: ...\n")
    text(inside / "mine" / "extra.py", "π = 3\n")
    return inside


def test_what_is_solved_and_what_is_open_is_listed_in_order(solved: Path):
    mine = solved / "mine"
    assert called("mine").output.splitlines() == [
        "00  conserved        open",
        f"05  SharedVwap       {mine / 'SharedVwap.py'}",
        f"    extra            {mine / 'extra.py'}",
    ]


def test_a_zip_has_every_answer_and_replaces_nothing_unasked(solved: Path):
    home = solved.parent / "home.zip"
    assert called("mine", "--zip", str(home)).output == (f"{home}: SharedVwap, extra\n")
    with ZipFile(home) as packed:
        assert {n: packed.read(n).decode() for n in packed.namelist()} == {
            "mine/SharedVwap.py": "class SharedVwap: ...\n",
            "mine/extra.py": "π = 3\n",
        }
    before = home.read_bytes()
    (solved / "mine" / "extra.py").unlink()
    said = called("mine", "--zip", str(home))
    assert said.exit_code == 2
    assert said.output == f"quants: zip={home}: it is there; --force replaces it\n"
    assert home.read_bytes() == before
    assert called("mine", "--zip", str(home), "--force").exit_code == 0
    with ZipFile(home) as packed:
        assert packed.namelist() == ["mine/SharedVwap.py"]
    assert sorted(f.name for f in home.parent.iterdir()) == ["clone", "home.zip"]


def test_unzipped_in_another_clone_the_notebooks_find_the_answer(
    inside: Path, tmp_path: Path, monkeypatch
):
    keep_mine()
    assert called("mine", "--zip", str(tmp_path / "home.zip")).exit_code == 0
    other = tmp_path / "other"
    shutil.copytree(inside / "notebooks", other / "notebooks")
    with ZipFile(tmp_path / "home.zip") as packed:
        packed.extractall(other)
    monkeypatch.chdir(other / "notebooks")
    assert CONSERVED.solved(lambda snapshot: None)[1] == "yours, kept"


def test_with_nothing_solved_one_sentence_says_so(inside: Path):
    sentence = (
        f"no exercise is solved yet; right answers are kept in {inside / 'mine'}\n"
    )
    listed, packed = called("mine"), called("mine", "--zip", "home.zip")
    assert (listed.exit_code, listed.output) == (0, sentence)
    assert (packed.exit_code, packed.output) == (1, f"quants: {sentence}")
    assert not (inside / "home.zip").exists()


@pytest.mark.parametrize("where", ["no/such/folder.zip", "notebooks"])
def test_a_zip_that_cannot_be_written_is_one_sentence(solved: Path, where: str):
    said = called("mine", "--zip", where, "--force")
    assert said.exit_code == 1
    assert re.fullmatch(
        rf"quants: {where}: .*; a place to write to is needed\n", said.output
    )
    assert [*solved.glob("*.part")] == []
