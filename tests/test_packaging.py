"""What installs the package says one thing in every place it is said."""

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tools import requirements as tool

ROOT = Path(__file__).parent.parent

# The conda names that differ. conda's `redis` is a stale client, `matplotlib`
# adds a desktop toolkit that no notebook uses.
CONDA_NAMES = {"redis": "redis-py", "matplotlib": "matplotlib-base"}
# In environment.yml only: conda's own, and what reaches /metrics from Binder.
CONDA_ONLY = {"python", "pip", "jupyter-server-proxy"}
# Not known to be on conda-forge.
PIP_ONLY = {"picows"}

# What the course promises its readers, in every way to install it.
FIXED = {
    *("jupyterlab", "ipywidgets", "matplotlib", "numpy", "aiohttp", "psutil"),
    *("aiofiles", "redis", "nest-asyncio", "nbval", "uvloop", "click"),
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads(read("pyproject.toml"))["project"]


@pytest.fixture(scope="module")
def wanted(project: Any) -> dict[str, Requirement]:
    """What pyproject.toml asks for, for readers, by name."""
    return {r.name: r for r in tool.wanted({"project": project})}


@pytest.fixture(scope="module")
def environment() -> Any:
    return yaml.safe_load(read("environment.yml"))


def texts() -> list[Path]:
    """The repository's text files, environments and caches aside."""
    folders = ("quants", "tests", "tools", "benchmarks", "binder", "notebooks")
    found = [f for f in ROOT.iterdir() if f.name != ".git"]
    for folder in (*folders, ".ci", ".github"):
        found += (ROOT / folder).rglob("*")
    kinds = ("", ".py", ".toml", ".txt", ".yml", ".md", ".cfg", ".cff", ".ipynb")
    return [f for f in found if f.is_file() and f.suffix in kinds]


def make_targets(text: str) -> set[str]:
    """The make targets that a script, a workflow or a page calls."""
    return set(re.findall(r"(?:^(?:.*run:)? *|`)(?:make|step) ([a-z]+)", text, re.M))


# requirements.txt ------------------------------------------------------------


def test_requirements_txt_is_what_the_tool_writes(wanted: dict[str, Requirement]):
    text = read("requirements.txt")
    assert tool.render(list(wanted.values()), tool.pins(text)) == text


def test_every_requirement_of_a_reader_is_pinned(wanted: dict[str, Requirement]):
    assert set(tool.pins(read("requirements.txt"))) == set(wanted)


def test_the_fixed_packages_are_all_there(wanted: dict[str, Requirement]):
    assert set(wanted) >= FIXED


def test_every_requirement_names_the_oldest_version_that_works(
    wanted: dict[str, Requirement],
):
    assert [str(r) for r in wanted.values() if ">=" not in str(r.specifier)] == []


def test_uvloop_is_left_out_where_it_does_not_exist(wanted: dict[str, Requirement]):
    marker = wanted["uvloop"].marker
    assert marker is not None
    assert not marker.evaluate({"sys_platform": "win32"})
    assert not marker.evaluate({"platform_python_implementation": "PyPy"})
    assert marker.evaluate(
        {"sys_platform": "linux", "platform_python_implementation": "CPython"}
    )


def test_a_pin_carries_the_marker_of_its_requirement():
    requirement = Requirement("uvloop>=0.21; sys_platform != 'win32'")
    line = 'uvloop==0.23.0; sys_platform != "win32"'
    assert tool.pinned(requirement, "0.23.0") == line
    assert tool.pins(line) == {"uvloop": "0.23.0"}


def test_a_version_that_pyproject_excludes_is_refused():
    with pytest.raises(ValueError, match=r"click>=8.1: 7.0 is installed"):
        tool.pinned(Requirement("click>=8.1"), "7.0")


def test_a_package_that_is_not_here_keeps_its_pin():
    assert tool.installed("no-such-package", "1.2.3") == "1.2.3"


def test_a_package_without_any_version_stops_the_tool():
    with pytest.raises(SystemExit, match="no-such-package is not installed"):
        tool.installed("no-such-package", None)


# conda and Binder ------------------------------------------------------------


def test_conda_installs_what_pip_does(wanted: dict[str, Requirement], environment: Any):
    *conda, pip = environment["dependencies"]
    parts = (re.fullmatch(r"([\w-]+)(.*)", line) for line in conda)
    listed = {m[1]: SpecifierSet(m[2]) for m in parts if m and m[1] not in CONDA_ONLY}
    # conda's files know no markers, so what has one comes from pip.
    by_pip = [r for r in wanted.values() if r.marker or r.name in PIP_ONLY]
    assert list(map(Requirement, pip["pip"])) == by_pip
    plain = [r for r in wanted.values() if r not in by_pip]
    assert listed == {CONDA_NAMES.get(r.name, r.name): r.specifier for r in plain}


def test_conda_names_one_python_exactly(environment: Any):
    # Without it Binder falls back to a Python that is too old.
    (line,) = (d for d in environment["dependencies"] if str(d).startswith("python"))
    assert re.fullmatch(r"python=3\.\d+", line)


def test_binder_reads_a_copy_of_the_environment():
    assert read("binder/environment.yml") == read("environment.yml")


def test_binder_gets_its_redis_from_the_system():
    assert read("binder/apt.txt").split() == ["redis-server"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
@pytest.mark.parametrize("script", ["binder/postBuild", ".ci/run"])
def test_a_script_is_executable(script: str):
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR
    assert read(script).startswith("#!/usr/bin/env bash\n")


# pyproject.toml --------------------------------------------------------------


def test_the_version_is_one_everywhere(project: Any):
    assert yaml.safe_load(read("CITATION.cff"))["version"] == project["version"]


def test_every_python_named_is_allowed_and_tried(project: Any):
    named = {c[-4:] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    matrix = yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]["test"]
    assert set(matrix["strategy"]["matrix"]["python"]) == named
    assert all(SpecifierSet(project["requires-python"]).contains(p) for p in named)


def test_the_licence_files_are_there(project: Any):
    assert [f for f in project["license-files"] if not (ROOT / f).is_file()] == []


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "quants/py.typed").is_file()


# Makefile, CI, bytes ---------------------------------------------------------


@pytest.mark.parametrize(
    "caller", [".github/workflows/test.yml", ".ci/run", "CONTRIBUTING.md", "README.md"]
)
def test_every_make_target_that_is_called_exists(caller: str):
    exists = set(re.findall(r"^([a-z]+):.*## ", read("Makefile"), re.M))
    called = make_targets(read(caller))
    assert called
    assert called <= exists


def test_calls_of_make_are_found_in_scripts_workflows_and_pages():
    text = "step lint\n      - run: make test PYTHON=python\nor `make lab`.\nmake run\n"
    assert make_targets(text) == {"lint", "test", "lab", "run"}


def test_every_line_ends_as_it_does_on_unix():
    assert [f.name for f in texts() if b"\r\n" in f.read_bytes()] == []


def test_nothing_names_a_path_of_somebodys_machine():
    homes = re.compile(r"(?<![\w.])/(?:home|Users|root)/\w+")
    found = {
        f.name: match[0]
        for f in texts()
        if (match := homes.search(f.read_text(encoding="utf-8")))
    }
    assert found == {}
