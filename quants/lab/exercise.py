"""An exercise: a stub that never breaks anything, and hints for each mistake.

A stub has no body and reads as "not yet". A wrong answer gets the hint of the
first case it fails; the next one a second hint, the third the solution.

Answers are tried on a thread of their own, with a loop of its own: they may be
coroutines, and one that never ends is told so after a deadline.
"""

import ast
import asyncio
import inspect
import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from runpy import run_path
from textwrap import dedent, indent
from threading import Thread
from typing import Any

from quants.clone import mine_for

Answer = Callable[..., Any]  # a function, a coroutine function or a class

DEADLINE = 5.0  # seconds for all cases of an answer


def call(answer: Answer, *arguments: Any) -> Any:
    """How an answer is asked, unless its case knows better."""
    result = answer(*arguments)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


@dataclass(frozen=True)
class Case:
    """Arguments, what is right for them, and what a wrong answer overlooked.

    Attributes:
        ask: tries the answer with the arguments; for a class, or a coroutine
            that needs company. It runs outside of any loop.
    """

    arguments: tuple[Any, ...]
    expected: Any
    hint: str
    ask: Callable[..., Any] = call

    def failure(self, answer: Answer) -> str | None:
        """Why an answer is not right here; None if it is."""
        try:
            result = self.ask(answer, *self.arguments)
        except Exception as fault:
            return f"{self.hint} (It raised {type(fault).__name__}: {fault})"
        right = result is self.expected or result == self.expected
        return None if right else self.hint


@dataclass
class Exercise:
    """A function to write.

    Attributes:
        solution: the reference; the stub is made from it.
        cases: in the order in which mistakes are told apart.
        second_hint: for who is wrong again.
        wrong: answers so far that were no solution.
    """

    solution: Answer
    cases: tuple[Case, ...]
    second_hint: str
    wrong: int = field(default=0)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.solution.__name__

    def stub(self) -> str:
        """The cell a reader starts from: arguments, docstrings, no body."""
        tree = ast.parse(dedent(inspect.getsource(self.solution)))
        return stub_of(tree.body[0])

    def failure(self, answer: Answer) -> str | None:
        """Why an answer is not right yet; None if it is."""
        found: SimpleQueue[str | None] = SimpleQueue()

        def attempt() -> None:
            hints = (case.failure(answer) for case in self.cases)
            found.put(next(filter(None, hints), None))

        Thread(target=attempt, daemon=True).start()
        try:
            return found.get(timeout=DEADLINE)
        except Empty:
            return f"it did not end within {DEADLINE:g} s: what is it waiting for?"

    def check(self, answer: Answer) -> str:
        """What to tell the author of an answer; right ones are kept in mine/."""
        if is_stub(answer):
            return f"{self.name}: not yet. Nothing below waits for it."
        if (hint := self.failure(answer)) is None:
            kept = keep(self.name, answer)
            return (
                f"{self.name}: right, in all {len(self.cases)} cases. {kept}".rstrip()
            )
        self.wrong += 1
        if self.wrong == 1:
            return f"{self.name}: not quite. {hint}"
        if self.wrong == 2:
            return f"{self.name}: not quite. {hint}\n{self.second_hint}"
        solution = dedent(inspect.getsource(self.solution))
        return f"{self.name}: not quite. {hint}\nOne way to do it:\n\n{solution}"

    def solved(self, answer: Answer) -> tuple[Answer, str]:
        """The answer if it is right, else mine/, else the solution; and whose."""
        earlier = kept(self.name, answer)
        for candidate, whose in ((answer, "yours"), (earlier, "yours, kept")):
            if candidate and self.failure(candidate) is None:
                return candidate, whose
        return self.solution, "the reference"


def stub_of(node: ast.AST) -> str:
    """A function or class without its bodies; private methods are left out."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    docstring = ast.get_docstring(node)
    end = "\n" if docstring and "\n" in docstring else ""
    told = [indent(f'"""{docstring}{end}"""', "    ")] if docstring else []
    if isinstance(node, ast.ClassDef):
        methods = [stub_of(each) for each in node.body if is_public(each)]
        bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
        parts = [*told, *(indent(method, "    ") for method in methods)]
        return f"class {node.name}{bases}:\n" + "\n\n".join(parts)
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    head = f"{kind} {node.name}({ast.unparse(node.args)}):"
    return "\n".join([head, *told, "    # yours" if told else "    ...  # yours"])


def is_public(node: ast.AST) -> bool:
    """Whether a stub shows a member of a class: its constructor, too."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return node.name == "__init__" or not node.name.startswith("_")


def is_stub(answer: Answer) -> bool:
    """Whether an answer has no body yet: docstrings, `...` and `pass` are none."""
    try:
        tree = ast.parse(source_of(answer))
    except (OSError, TypeError, SyntaxError):
        return False
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    defined = [node for node in ast.walk(tree) if isinstance(node, definitions)]
    statements = [each for node in defined for each in node.body]
    empty = (definitions, ast.Pass)
    return bool(defined) and all(
        isinstance(each, empty) or is_constant(each) for each in statements
    )


def source_of(answer: Answer) -> str:
    """The source of a function or class, also of one from a cell.

    Before 3.13 a class does not know which cell it comes from; its methods do.
    """
    if not inspect.isclass(answer):
        return dedent(inspect.getsource(answer))
    methods = filter(inspect.isfunction, vars(answer).values())
    cell = "".join(linecache.getlines(next(methods, call).__code__.co_filename))
    for node in ast.walk(ast.parse(cell)):
        if isinstance(node, ast.ClassDef) and node.name == answer.__name__:
            return ast.get_source_segment(cell, node) or ""
    raise OSError(f"the source of {answer.__name__} is not known")


def is_constant(node: ast.stmt) -> bool:
    """Whether a statement is a docstring, or three dots."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def keep(name: str, answer: Answer) -> str:
    """Write a right answer to mine/; the sentence that says so."""
    try:
        source = source_of(answer)
    except (OSError, TypeError):
        return ""
    folder = mine_for(Path.cwd())
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return f"Kept in {folder.name}/{name}.py."


def kept(name: str, beside: Answer) -> Answer | None:
    """The reader's own answer from an earlier session.

    Args:
        beside: what the notebook has now; its names are what the answer was
            written with: imports of other cells.
    """
    file = mine_for(Path.cwd()) / f"{name}.py"
    names = getattr(sys.modules.get(beside.__module__), "__dict__", {})
    try:
        return run_path(str(file), names).get(name)
    except Exception:
        return None  # there is none, or it does not even begin to run here
