"""An exercise: a stub that never breaks anything, and hints for each mistake.

A stub returns None, which reads as "not yet". A wrong answer gets the hint of
the first case it fails; the next one a second hint, the third the solution.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from runpy import run_path
from textwrap import dedent, indent
from typing import Any

Answer = Callable[..., Any]

MINE = Path("mine")  # the reader's own solutions, beside the notebooks


@dataclass(frozen=True)
class Case:
    """Arguments, what is right for them, and what a wrong answer overlooked."""

    arguments: tuple[Any, ...]
    expected: Any
    hint: str


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
        """The cell a reader starts from: arguments, docstring, no body."""
        arguments = ", ".join(inspect.signature(self.solution).parameters)
        docstring = indent(f'"""{inspect.getdoc(self.solution)}\n"""', "    ")
        return f"def {self.name}({arguments}):\n{docstring}\n    # yours"

    def failure(self, answer: Answer) -> str | None:
        """Why an answer is not right yet; None if it is."""
        for case in self.cases:
            try:
                result = answer(*case.arguments)
            except Exception as fault:
                return f"it raised {type(fault).__name__}: {fault}"
            if result is not case.expected and result != case.expected:
                return case.hint
        return None

    def check(self, answer: Answer) -> str:
        """What to tell the author of an answer; right ones are kept in mine/."""
        if is_stub(self, answer):
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
        for candidate, whose in ((answer, "yours"), (kept(self.name), "yours, kept")):
            if candidate and self.failure(candidate) is None:
                return candidate, whose
        return self.solution, "the reference"


def is_stub(exercise: Exercise, answer: Answer) -> bool:
    """Whether an answer has no body yet."""
    try:
        return all(answer(*case.arguments) is None for case in exercise.cases)
    except Exception:
        return False


def keep(name: str, answer: Answer) -> str:
    """Write a right answer to mine/; the sentence that says so."""
    try:
        source = dedent(inspect.getsource(answer))
    except (OSError, TypeError):
        return ""
    MINE.mkdir(exist_ok=True)
    (MINE / f"{name}.py").write_text(source, encoding="utf-8")
    return f"Kept in {(MINE / name).as_posix()}.py."


def kept(name: str) -> Answer | None:
    """The reader's own answer from an earlier session."""
    file = MINE / f"{name}.py"
    return run_path(str(file)).get(name) if file.is_file() else None
