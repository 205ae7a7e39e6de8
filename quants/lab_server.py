"""A JupyterLab of our own: quiet, on this machine only, ended with all its kernels.

It has a session of its own, so that Ctrl-C reaches us alone and nobody is asked
whether they are sure. The settings are the reader's; for this start alone the
question about news and the look for updates are turned off, and the desk is
empty: no tabs of other work are restored.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import psutil

from quants.errors import EnvironmentFault
from quants.host import running

START_SECONDS = 90.0  # a cold start on a busy machine takes 20
END_SECONDS = 15.0  # Jupyter waits 5 for a kernel that does not answer
LOOK_SECONDS = 0.25  # between two looks at whether it is still there

NOTIFICATIONS = {"fetchNews": "false", "checkForUpdates": False}
QUIET = {"@jupyterlab/apputils-extension:notification": NOTIFICATIONS}
OPTIONS = (
    *("--no-browser", "--allow-root"),  # root is who a container runs as
    *(
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.base_url=/",
        "--ServerApp.port_retries=0",
    ),
    *("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",),
    "--LabApp.news_url=None",
)

Child = subprocess.Popen[bytes]


class Lab:
    """A JupyterLab that answers.

    Args:
        child: its process.
        port: where it listens, on 127.0.0.1.
        token: who shows it may do everything.
        log: what it said.
    """

    def __init__(self, child: Child, port: int, token: str, log: Path) -> None:
        self.child, self.port, self.token, self.log = child, port, token, log

    def url(self, path: str) -> str:
        """What a browser opens to see a file, named from the top folder."""
        site = f"http://127.0.0.1:{self.port}/lab/workspaces/quants/tree/"
        return f"{site}{quote(path)}?token={self.token}"

    def wait_until_it_answers(self) -> None:
        """Return once it does.

        Raises:
            EnvironmentFault: it ended instead, or took too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.port):
            if self.child.poll() is not None:
                raise EnvironmentFault(f"JupyterLab did not start: {self.last_words()}")
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"JupyterLab does not answer within {START_SECONDS:g} s; when the "
                    "machine is less busy, try again"
                )
            time.sleep(LOOK_SECONDS)

    def wait_until_it_ends(self) -> None:
        """Return when it was shut down, from its own menu.

        Raises:
            EnvironmentFault: it was not: it failed, or was killed.
        """
        while (code := self.child.poll()) is None:
            time.sleep(LOOK_SECONDS)
        if code:
            raise EnvironmentFault(f"JupyterLab ended: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, with the exit code if there is none."""
        lines = self.log.read_text("utf-8", errors="replace").split("\n")
        said = next(filter(None, map(str.strip, reversed(lines))), "it said nothing")
        return f"{said} (exit code {self.child.returncode})"

    def end(self) -> None:
        """Ask it to end, and see that nothing is left of it or its kernels."""
        below = []
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.child.pid).children(recursive=True)
        self.child.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(END_SECONDS)
        finally:  # also when a second Ctrl-C will not wait
            self.child.kill()
            for each in below:
                with suppress(psutil.NoSuchProcess):
                    each.kill()


def refuse_without_jupyterlab() -> None:
    """Say what to install.

    Raises:
        EnvironmentFault: there is no JupyterLab.
    """
    if find_spec("jupyterlab") is None:
        raise EnvironmentFault(
            "JupyterLab is not installed beside this Python; "
            'pip install "quants-in-motion[lab]"'
        )


def answers(port: int) -> bool:
    """Whether a Jupyter server answers on a port of this machine."""
    try:
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/api")
            return "version" in json.load(connection.getresponse())
    except (OSError, HTTPException, ValueError):
        return False


@contextmanager
def jupyter_lab(root: Path, port: int) -> Iterator[Lab]:
    """A JupyterLab on the files below a folder, for as long as the block runs.

    Raises:
        EnvironmentFault: it does not start.
    """
    token = secrets.token_hex(24)
    with TemporaryDirectory(prefix="quants-jupyter-") as name:
        folder, log = Path(name), Path(name) / "log"
        options = f"--ServerApp.port={port}", f"--ServerApp.root_dir={root}"
        command = [sys.executable, "-m", "jupyterlab", *OPTIONS, *options]
        environment = os.environ | quiet(folder, os.environ) | {"JUPYTER_TOKEN": token}
        with (
            log.open("wb") as file,
            running(
                command, cwd=root, env=environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            ) as child,
        ):  # fmt: skip
            lab = Lab(child, port, token, log)
            try:
                lab.wait_until_it_answers()
                yield lab
            finally:
                lab.end()


def quiet(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for a JupyterLab that asks nobody; the files go to a folder."""
    (folder / "labconfig").mkdir()
    overrides = folder / "labconfig" / "default_setting_overrides.json"
    overrides.write_text(json.dumps(QUIET), encoding="utf-8")
    paths = filter(None, [str(folder), environment.get("JUPYTER_CONFIG_PATH")])
    return {
        "JUPYTER_CONFIG_PATH": os.pathsep.join(paths),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
