"""Who may read a server: pure decisions, the same for the feed and the metrics.

On loopback everybody on this machine may. Elsewhere a token is needed, and
nowhere may a web page of some other site read through its visitor's browser.
"""

from collections.abc import Mapping
from hmac import compare_digest
from ipaddress import ip_address
from urllib.parse import urlsplit

from quants.errors import SettingsError


def is_loopback(host: str | None) -> bool:
    """Whether a host name stays on this machine; an unknown name does not."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False


def token_for(host: str, token: str | None) -> str | None:
    """The token a server on this host asks for: on loopback none.

    Raises:
        SettingsError: the host can be reached from elsewhere, without token.
    """
    if is_loopback(host):
        return None
    if not token:
        raise SettingsError("host", host, "others can reach it: set QUANTS_TOKEN")
    return token


def is_foreign(origin: str, host: str) -> bool:
    """Whether a page of `origin` is no page of the server at `host:port`."""
    try:
        site = urlsplit(origin)
    except ValueError:
        return True
    return site.netloc != host and not is_loopback(site.hostname)


def allowed(
    headers: Mapping[str, str], query: Mapping[str, str], token: str | None
) -> bool:
    """Whether a request may be answered.

    Args:
        headers: of the request; `Authorization: Bearer` may carry the token.
        query: of its URL; `?token=` may carry it as well, for a browser.
        token: what `token_for` said; None asks for none.
    """
    origin = headers.get("Origin")
    if origin is not None and is_foreign(origin, headers.get("Host", "")):
        return False
    shown = headers.get("Authorization", "").removeprefix("Bearer ")
    shown = shown or query.get("token", "")
    return token is None or compare_digest(raw(shown), raw(token))


def raw(text: str) -> bytes:
    """The bytes of a header, UTF-8 or not."""
    return text.encode("utf-8", "surrogateescape")
