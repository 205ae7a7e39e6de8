"""Where the reader's browser finds a server that a cell has started.

It listens on 127.0.0.1, and that is the browser's machine only when both are
one. Behind JupyterHub, and so on Binder, the way leads through the Jupyter
server, by jupyter-server-proxy. What a kernel can know of it, in this order:

1. QUANTS_PROXY_URL, such as "https://lab.example/user/me/proxy/{port}/";
2. JUPYTERHUB_SERVICE_PREFIX, such as "/user/me/", which every hub sets;
3. the file in which the Jupyter server that started us tells its own prefix.

A kernel sees the proxy only where both are installed in one place.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from jupyter_core.paths import jupyter_runtime_dir

from quants.errors import SettingsError
from quants.server import MetricsServer

TOLD = "QUANTS_PROXY_URL"
HUB = "JUPYTERHUB_SERVICE_PREFIX"
DOUBT = (
    "this kernel sees no jupyter-server-proxy: if the page is not found, install it "
    f"where Jupyter runs, or say the way in {TOLD}"
)


@dataclass(frozen=True)
class Address:
    """A link for the reader's browser.

    Attributes:
        url: complete, or a path of the site that the notebook came from.
        doubt: why it may lead nowhere, and what to do; empty if nothing is known.
    """

    url: str
    doubt: str = ""

    def __str__(self) -> str:
        return f"{self.url} ({self.doubt})" if self.doubt else self.url

    def _repr_html_(self) -> str:
        url, doubt = escape(self.url), escape(self.doubt)
        link = f'<a href="{url}" target="_blank">{url}</a>'
        return f"{link} ({doubt})" if doubt else link


def metrics_url(server: MetricsServer, page: str = "") -> Address:
    """Where the reader's browser finds a server that runs in this kernel.

    Args:
        page: of that server, such as "metrics"; the live page has no name.

    Raises:
        SettingsError: QUANTS_PROXY_URL has no place for the port.
    """
    starters = os.environ.get("JPY_PARENT_PID", ""), str(os.getppid())
    prefix = served_below(Path(jupyter_runtime_dir()), starters)
    proxied = find_spec("jupyter_server_proxy") is not None
    found = address(server.port, os.environ, prefix, proxied)
    if found is None:
        return Address(server.url + page)
    return Address(found.url + page, found.doubt)


def address(
    port: int, environment: Mapping[str, str], prefix: str | None, proxied: bool
) -> Address | None:
    """The way through a Jupyter server to a port; None is the direct one.

    Args:
        prefix: of the Jupyter server that started us, if one is known.
        proxied: whether jupyter-server-proxy is installed beside us.
    """
    if told := environment.get(TOLD):
        if "{port}" not in told:
            raise SettingsError(TOLD, told, "the port goes where it says {port}")
        return Address(told.replace("{port}", str(port)).rstrip("/") + "/")
    if hub := environment.get(HUB):
        # No browser is on a hub's machine: a doubtful way is better than none.
        return Address(through(hub, port), "" if proxied else DOUBT)
    if prefix is not None and proxied:
        return Address(through(prefix, port))
    return None


def through(prefix: str, port: int) -> str:
    """The path by which a Jupyter server hands on to a port."""
    return f"{prefix.rstrip('/')}/proxy/{port}/"


def served_below(folder: Path, starters: Iterable[str]) -> str | None:
    """The prefix of the Jupyter server that is one of these processes.

    Args:
        folder: where Jupyter servers tell their addresses, a file each.
        starters: process ids; on Windows, Jupyter tells us none.
    """
    for pid in starters:
        try:
            told = json.loads((folder / f"jpserver-{pid}.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue  # it is no server, or one that is writing just now
        if isinstance(prefix := told.get("base_url"), str):
            return prefix
    return None
