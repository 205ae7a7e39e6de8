"""The house of the package, kept by reading its source.

Each rule is a function: a package's folder in, sentences about what is wrong
out. The real package must give none, and each rule is shown a small package
that breaks it, so that a rule which sees nothing is noticed.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Top to bottom; a module may import from its own row and from rows below.
# The empty name is quants/__init__.py, the public names.
HOUSE = (
    {"__main__"},
    {"cli", "commands", "serve", "limit_commands", "alert_commands", "lab_commands"},
    {"lab"},
    {""},
    {
        *("pipeline", "readings", "report", "view", "debug", "sentences", "doctor"),
        *("page", "supervisor", "outages"),
        *("doomed", "bench", "climb", "ladder", "ladder_picture", "view_picture"),
        *("progress", "lab_server"),
    },
    # Settings are known above this line, and nowhere below.
    {"naive"},
    {"server"},
    {"feed_server", "subscriber", "feed_client"},
    {"feed", "listener"},
    {"messages"},
    {
        *("vwap", "windows", "pools", "simple_pools", "monitor", "stalls", "memory"),
        *("engines", "shared", "lane", "dealer", "worker"),
        *("ticklog", "disk", "archive", "logfile", "recovery"),
        *("risk", "rules", "limits", "alerts"),
        *("tick_rules", "counting_rules", "seconds", "silence", "gate"),
        *("outbox", "breaker", "waiting", "tracking", "lookups"),
        *("export", "selection", "table", "table_csv", "table_parquet"),
        "recordings",
    },
    {"channel", "history", "inbox"},
    {
        *("kernels", "sums", "market", "pace", "redis_server", "metrics", "histogram"),
        # What recordings are read with.
        *("tradefile", "survey", "layouts", "coinbase", "trades", "exact", "lines"),
        *(
            "evidence",
            "turns",
            "access",
            "sampler",
            "quiet",
            "outfile",
            "clone",
            "host",
            "frame",
            "tick",
            "settings",
        ),
        "errors",
        "onlooker",
    },
)
LINE = 5  # rows above it

HOST_MODULES = {"fcntl", "resource"}
HOST_NAMES = {"fork", "sched_getaffinity", "SIGSTOP", "add_signal_handler"}
NOWHERE = {
    *("create_subprocess_exec", "create_subprocess_shell"),
    *("add_reader", "add_writer"),
}

# Whose open() takes the path first and then the mode; a Path's takes the mode.
ARCHIVES = {"gzip", "bz2", "lzma"}  # binary unless told otherwise
MODULES = ARCHIVES | {"os", "io", "aiofiles"}
OTHERS = {"os", "webbrowser"}  # no text file comes from their open()

Rule = Callable[[Path], Iterator[str]]


# Reading ---------------------------------------------------------------------


def sources(package: Path) -> dict[str, ast.Module]:
    """The parsed modules of a package, by dotted name without the package."""
    trees = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        trees[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return trees


def called(node: ast.AST) -> str:
    """The last name of what a call calls: `open` of `path.open(...)`."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def imported(tree: ast.Module, home: str) -> Iterator[str]:
    """Every absolute name a module imports, wherever in it the import stands.

    Args:
        home: the package the module lies in, to which `from . import` refers.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = home.split(".")[: len(home.split(".")) - node.level + 1]
            start = ".".join(up) if node.level else ""
            source = ".".join(filter(None, [start, node.module]))
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif called(node) in ("import_module", "__import__"):
            yield from filter(None, map(text_of, ast.walk(node)))


def text_of(node: ast.AST) -> str:
    """The text of a string constant, "" of anything else."""
    value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else ""


def arrows(package: Path) -> dict[str, set[str]]:
    """Which module imports which, inside the package."""
    trees = sources(package)
    is_package = {
        n for n in trees if (package / n.replace(".", "/") / "__init__.py").exists()
    }
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        home = name if name in is_package else name.rpartition(".")[0]
        graph[name] = {
            target
            for full in imported(tree, f"quants.{home}".rstrip("."))
            if (target := owner(full, trees)) is not None and target != name
        }
    return graph


def owner(full: str, trees: dict[str, ast.Module]) -> str | None:
    """The module that an imported name belongs to, None if not ours.

    `quants.tick.Batch` belongs to `tick`, `quants.Market` to the package.
    """
    top, _, inner = full.partition(".")
    places = (inner, inner.rpartition(".")[0])  # a module, or a name in one
    return next((p for p in places if p in trees), None) if top == "quants" else None


def row(name: str) -> int | None:
    """A module's row in the house, counted from the top."""
    rows = (i for i, names in enumerate(HOUSE) if name.split(".")[0] in names)
    return next(rows, None)


def docstrings(tree: ast.Module) -> set[int]:
    """The identities of the nodes that are docstrings."""
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        )
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


# Rules -----------------------------------------------------------------------


def every_module_has_a_place(package: Path) -> Iterator[str]:
    for name in sources(package):
        if row(name) is None:
            yield (
                f"{name} has no place in the house: put it in a row of HOUSE, "
                "in tests/test_house.py, above all that it imports"
            )


def no_cycle_of_any_kind(package: Path) -> Iterator[str]:
    try:
        TopologicalSorter(arrows(package)).prepare()
    except CycleError as error:
        yield "imports in a circle: " + " <- ".join(error.args[1])


def arrows_point_down(package: Path) -> Iterator[str]:
    for name, targets in arrows(package).items():
        for target in sorted(targets):
            here, there = row(name), row(target)
            if here is not None and there is not None and there < here:
                yield f"{name} imports {target or 'quants'}, which stands above it"


def no_stage_imports_another(package: Path) -> Iterator[str]:
    trees = sources(package).items()
    stages = {n for n, t in trees if is_stage(t) and (row(n) or 0) >= LINE}
    for name, targets in arrows(package).items():
        if name in stages and targets & stages:
            yield f"the stage {name} imports the stage {', '.join(targets & stages)}"


def is_stage(tree: ast.Module) -> bool:
    """Whether a module defines `async def run(self, batches)` in a class."""
    return any(
        isinstance(method, ast.AsyncFunctionDef)
        and method.name == "run"
        and "batches" in [argument.arg for argument in method.args.args]
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for method in node.body
    )


def settings_stay_above_the_line(package: Path) -> Iterator[str]:
    graph = arrows(package)
    for name, tree in sources(package).items():
        below = (row(name) or 0) >= LINE and name != "settings"
        named = any(
            getattr(node, field, None) == "Settings"
            for node in ast.walk(tree)
            for field in ("id", "attr", "name")
        )
        if below and ("settings" in graph[name] or named):
            yield f"{name} knows Settings; give its constructor plain numbers"


def only_host_asks_the_system(package: Path) -> Iterator[str]:
    for name, tree in sources(package).items():
        documentation = docstrings(tree)
        for node in ast.walk(tree):
            word = system_word(node)
            if word in NOWHERE:
                yield f"{name} uses {word}, which not every loop has"
            elif word and name != "host" and id(node) not in documentation:
                yield f"{name} uses {word}; only host.py may"


def system_word(node: ast.AST) -> str:
    """The part of the system a node asks for, or nothing."""
    if isinstance(node, ast.Constant):
        text = str(node.value)
        return text if text == "/proc" or text.startswith("/proc/") else ""
    if isinstance(node, ast.ImportFrom) and node.module in HOST_MODULES:
        return node.module
    word = next(
        (
            w
            for f in ("attr", "id", "name")
            if isinstance(w := getattr(node, f, 0), str)
        ),
        "",
    )
    system = word in HOST_NAMES | NOWHERE or "PDEATHSIG" in word
    module = isinstance(node, ast.alias) and word in HOST_MODULES
    return word if system or module else ""


def every_text_file_names_utf_8(package: Path) -> Iterator[str]:
    for name, tree in sources(package).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and opens_text(node) and not says_utf_8(node):
                yield f'{name}, line {node.lineno}: say encoding="utf-8"'


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text, as far as its source tells."""
    receiver = getattr(getattr(call.func, "value", None), "id", "")
    if called(call) in ("read_text", "write_text"):
        return True
    if called(call) == "fdopen" or (called(call) == "open" and receiver not in OTHERS):
        mode = mode_of(call, receiver)
        return "t" in mode if receiver in ARCHIVES else "b" not in mode
    return False


def mode_of(call: ast.Call, receiver: str) -> str:
    """The mode a file is opened with; a computed one counts as binary."""
    first = isinstance(call.func, ast.Attribute) and receiver not in MODULES
    given = [k.value for k in call.keywords if k.arg == "mode"]
    given += call.args[:1] if first else call.args[1:2]
    if not given:
        return ""
    return text_of(given[0]) or "b"


def says_utf_8(call: ast.Call) -> bool:
    given = [*call.args, *(k.value for k in call.keywords if k.arg == "encoding")]
    return any(isinstance(a, ast.Constant) and a.value == "utf-8" for a in given)


def nothing_applies_nest_asyncio(package: Path) -> Iterator[str]:
    for name, tree in sources(package).items():
        if any(full.split(".")[0] == "nest_asyncio" for full in imported(tree, "")):
            yield f"{name} imports nest_asyncio, which patches everybody's loop"


# Facts -----------------------------------------------------------------------

PLANTED: list[tuple[Rule, dict[str, str], str]] = [
    (every_module_has_a_place, {"utils": ""}, "utils has no place in the house"),
    (
        no_cycle_of_any_kind,
        {
            "tick": "def late():\n    from quants.errors import E",
            "errors": "from quants import tick",
        },
        "in a circle",
    ),
    (
        no_cycle_of_any_kind,
        {
            "tick": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from .errors import E",
            "errors": "import quants.tick",
        },
        "in a circle",
    ),
    (
        no_cycle_of_any_kind,
        {
            "lab/__init__": "from .session import open_session",
            "lab/session": "from quants.lab import anything",
        },
        "in a circle",
    ),
    (
        no_cycle_of_any_kind,
        {
            "tick": "import importlib\nimportlib.import_module('quants.errors')",
            "errors": "from . import tick",
        },
        "in a circle",
    ),
    (arrows_point_down, {"channel": "", "tick": "from quants import channel"}, "tick"),
    (arrows_point_down, {"channel": "from quants import Market"}, "imports quants"),
    (
        no_stage_imports_another,
        {
            stage: f"{line}\nclass S:\n    async def run(self, batches): ..."
            for stage, line in (("risk", "from quants.vwap import S"), ("vwap", ""))
        },
        "the stage risk imports the stage vwap",
    ),
    (
        settings_stay_above_the_line,
        {"settings": "class Settings: ...", "vwap": "from quants.settings import X"},
        "vwap knows Settings",
    ),
    (
        settings_stay_above_the_line,
        {"server": "import quants\ndef f(s: quants.Settings): ..."},
        "server knows Settings",
    ),
    (only_host_asks_the_system, {"ticklog": "import fcntl"}, "ticklog uses fcntl"),
    (only_host_asks_the_system, {"risk": "from resource import x"}, "uses resource"),
    (only_host_asks_the_system, {"risk": "from os import fork"}, "risk uses fork"),
    (only_host_asks_the_system, {"risk": "import os\nos.fork()"}, "risk uses fork"),
    (only_host_asks_the_system, {"risk": "p = f'/proc/{1}/stat'"}, "risk uses /proc"),
    (only_host_asks_the_system, {"risk": "PR_SET_PDEATHSIG = 1"}, "PDEATHSIG"),
    (only_host_asks_the_system, {"lab/a": "x = signal.SIGSTOP"}, "lab.a uses SIGSTOP"),
    (only_host_asks_the_system, {"risk": "os.sched_getaffinity(0)"}, "getaffinity"),
    (only_host_asks_the_system, {"cli": "l.add_signal_handler(2, f)"}, "add_signal"),
    (only_host_asks_the_system, {"host": "l.add_reader(0, f)"}, "not every loop"),
    (
        only_host_asks_the_system,
        {"host": "from asyncio import create_subprocess_exec"},
        "not every loop",
    ),
    (every_text_file_names_utf_8, {"export": "open(p)"}, "export, line 1"),
    (every_text_file_names_utf_8, {"export": "open(p, 'w')"}, "export, line 1"),
    (every_text_file_names_utf_8, {"export": "p.open()"}, "export, line 1"),
    (every_text_file_names_utf_8, {"export": "p.open(mode='a')"}, "export, line 1"),
    (every_text_file_names_utf_8, {"export": "p.read_text()"}, "export, line 1"),
    (
        every_text_file_names_utf_8,
        {"export": "p.open(encoding='latin-1')"},
        "export, line 1",
    ),
    (every_text_file_names_utf_8, {"export": "gzip.open(p, 'rt')"}, "export, line 1"),
    (every_text_file_names_utf_8, {"export": "os.fdopen(3)"}, "export, line 1"),
    (
        nothing_applies_nest_asyncio,
        {"lab/a": "def f():\n    import nest_asyncio"},
        "lab.a imports nest_asyncio",
    ),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTED))

GOOD = {
    "__init__": "from quants.channel import Channel",
    "cli": "from quants.settings import Settings",
    "pipeline": "from quants import vwap\nclass P:\n"
    "    async def run(self, batches): ...",
    "host": "import fcntl, os\nos.fork()\nopen('/proc/stat', 'rb')",
    "channel": '"""Not read from /proc."""\nfrom quants.tick import Batch',
    "vwap": "class V:\n    async def run(self, batches): ...",
    "engines": "from quants.vwap import V",
    "settings": "class Settings: ...",
    "tick": "import os\nos.open(p, os.O_RDONLY)\np.open('ab')\ngzip.open(p)\n"
    "open(p, mode)\nio.open(p, mode='rb')\n"
    "p.read_text('utf-8')\nopen(p, 'w', encoding='utf-8')",
}


def build(folder: Path, modules: dict[str, str]) -> Path:
    """A package of these modules in a folder."""
    for name, source in modules.items():
        file = folder / "quants" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source + "\n", encoding="utf-8")
    return folder / "quants"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule):
    assert list(rule(ROOT / "quants")) == []


@pytest.mark.parametrize(("rule", "modules", "sentence"), PLANTED)
def test_a_planted_violation_is_seen(
    rule: Rule, modules: dict[str, str], sentence: str, tmp_path: Path
):
    package = build(tmp_path, {"__init__": "", **modules})
    assert sentence in "\n".join(rule(package))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_house_passes(rule: Rule, tmp_path: Path):
    assert list(rule(build(tmp_path, GOOD))) == []


@pytest.mark.parametrize("folder", ["tests", "tools", "benchmarks"])
def test_text_files_are_utf_8_everywhere_else_too(folder: str):
    assert list(every_text_file_names_utf_8(ROOT / folder)) == []


# What an import may not change, looked at before and after.
STATE = """
import asyncio, gc, logging, multiprocessing, os, pathlib, signal, sys, threading

def state():
    return {
        "asyncio.run": asyncio.run,
        "asyncio.Task": asyncio.Task,
        "threads": threading.enumerate(),
        "child processes": multiprocessing.active_children(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "signal handlers": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "garbage collector": (gc.isenabled(), gc.get_threshold()),
        "frozen objects": gc.get_freeze_count(),
        "collector callbacks": list(gc.callbacks),
        "switch interval": sys.getswitchinterval(),
        "root log handlers": list(logging.getLogger().handlers),
        "files here": sorted(pathlib.Path.cwd().iterdir()),
    }
"""


def changed_by(statement: str, folder: Path) -> str:
    """What a statement changes in a fresh interpreter, and what it prints."""
    code = (
        f"{STATE}\nbefore = state()\n{statement}\nafter = state()\n"
        "print([name for name in before if before[name] != after[name]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=60,
    )
    return done.stdout + done.stderr


def test_importing_every_module_changes_nothing(tmp_path: Path):
    names = [f"quants.{n}".rstrip(".") for n in sources(ROOT / "quants")]
    statement = "import " + ", ".join(n for n in names if n != "quants.__main__")
    assert changed_by(statement, tmp_path) == "[]\n"


@pytest.mark.parametrize(
    ("statement", "seen"),
    [
        (
            "threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "threads",
        ),
        ("asyncio.run = None", "asyncio.run"),
        ("gc.callbacks.append(print)", "collector callbacks"),
        ("open('ticks.log', 'wb').close()", "files here"),
    ],
)
def test_a_side_effect_would_be_seen(statement: str, seen: str, tmp_path: Path):
    assert seen in changed_by(statement, tmp_path)
