"""Write requirements.txt: what pyproject.toml asks for, at the versions here.

    python tools/requirements.py

Run it with the oldest Python supported, where the tests have passed: the
newest release for that one installs on every later one, so one pin serves
all. A package that this system has no use for (uvloop on Windows) keeps the
pin it had. It asks no network.
"""

import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

HEAD = """\
# The exact versions that the tests ran with, the same for every Python and
# system. Written by tools/requirements.py from pyproject.toml: edit that.
# Run from the repository's folder:
#     python -m pip install -r requirements.txt
"""

# The package itself, so that notebooks and worker processes can import it.
TAIL = "-e .\n"


def wanted(pyproject: Mapping[str, Any]) -> list[Requirement]:
    """What a reader needs: the package's own requirements and the lab's."""
    project = pyproject["project"]
    texts = project["dependencies"] + project["optional-dependencies"]["lab"]
    return sorted(map(Requirement, texts), key=lambda r: r.name.lower())


def pinned(requirement: Requirement, exact: str) -> str:
    """One line of requirements.txt.

    Raises:
        ValueError: pyproject.toml excludes this version.
    """
    if exact not in requirement.specifier:
        raise ValueError(f"{requirement}: {exact} is installed; upgrade it first")
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return f"{requirement.name}=={exact}{marker}"


def pins(requirements_txt: str) -> dict[str, str]:
    """The versions that a requirements.txt holds, by name."""
    lines = (line.partition(";")[0] for line in requirements_txt.splitlines())
    return dict(line.strip().split("==") for line in lines if "==" in line)


def render(requirements: list[Requirement], versions: Mapping[str, str]) -> str:
    """The text of requirements.txt for these versions."""
    lines = [pinned(r, versions[r.name]) + "\n" for r in requirements]
    return HEAD + "".join(lines) + TAIL


def installed(name: str, otherwise: str | None) -> str:
    """The version of a package in this environment, or the pin it had."""
    try:
        return version(name)
    except PackageNotFoundError:
        if otherwise is None:
            raise SystemExit(f"{name} is not installed here: run `make lab`") from None
        return otherwise


def main() -> None:
    """Rewrite requirements.txt in place."""
    requirements = wanted(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8")))
    file = ROOT / "requirements.txt"
    before = pins(file.read_text("utf-8")) if file.exists() else {}
    versions = {r.name: installed(r.name, before.get(r.name)) for r in requirements}
    file.write_text(render(requirements, versions), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
