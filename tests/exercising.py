"""How every exercise of the series is tried: solution, stub, misconceptions."""

import inspect
import linecache
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quants.lab.exercise import Answer, Exercise, is_stub


def made(source: str, name: str) -> Answer:
    """What a cell with this source defines; its source can be read again."""
    file = f"<{name} {abs(hash(source))}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    space: dict[str, Any] = {}
    exec(compile(source, file, "exec"), space)
    answer: Answer = space[name]
    return answer


def try_all(exercise: Exercise, misconceptions: Mapping[Answer, str]) -> None:
    """The solution passes, the stub fails, each misconception gets its hint.

    Args:
        misconceptions: wrong answers, at least three, and a text that only the
            hint for this one contains.
    """
    task = replace(exercise, wrong=0)
    assert task.failure(exercise.solution) is None
    stub = made(task.stub(), task.name)
    assert is_stub(stub)
    assert not is_stub(exercise.solution)
    assert task.failure(stub) is not None
    assert task.check(stub) == f"{task.name}: not yet. Nothing below waits for it."
    assert len(misconceptions) >= 3
    hints = {name_of(wrong): task.failure(wrong) or "" for wrong in misconceptions}
    for wrong, part in misconceptions.items():
        having = [name for name, hint in hints.items() if part in hint]
        assert having == [name_of(wrong)], (part, hints)
    assert len(inspect.getsource(exercise.solution).splitlines()) <= 30


def name_of(answer: Answer) -> str:
    """What a test calls it."""
    return answer.__qualname__
