"""The URL of an instance that lives beyond this machine: which engine keeps its names and values, and where.

===============================================  =====================================================================
``etcd://h1:2379,h2:2379/namespace?ttl=5``       keys below ``namespace/`` of that cluster
``postgresql://user@host:5432/db?namespace=ns``  rows of ``ns`` in that database
``memory://name``                                for tests: a process of this machine that forgets all when it ends
===============================================  =====================================================================

``ttl`` is the time in whole seconds after which the locks of a machine that has died are free. Hosts without a port
have the engine's usual one, and the namespace is ``wdkmutex`` unless given. A URL is shown in lists, logs and messages,
so a password in it is refused; credentials come from the environment.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import EngineUnavailable, InvalidName

__all__ = ["SCHEMES", "EngineUrl", "missing", "parse"]

NAMESPACE = "wdkmutex"
TTL = 5
MOST_TTL = 600

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}))(?::([0-9]{1,5}))?", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_SECRET = re.compile(r"(://[^/?#]*?):[^/?#@]*@")


class _Scheme(NamedTuple):
    """What the URLs of one engine look like."""

    port: int | None
    """Of a host that names none; None: what stands there is a name, not a host."""
    path: str
    """What the path means: ``namespace``, ``database``, or nothing."""
    options: frozenset[str]
    example: str


SCHEMES = {
    "etcd": _Scheme(2379, "namespace", frozenset({"ttl"}), "etcd://host:2379/namespace?ttl=5"),
    "postgresql": _Scheme(
        5432, "database", frozenset({"namespace", "ttl"}), "postgresql://user@host/database?namespace=ns&ttl=5"
    ),
    "memory": _Scheme(None, "", frozenset({"ttl"}), "memory://name"),
}
"""Every engine that a URL can name."""


class EngineUrl(NamedTuple):
    """A URL taken apart, every part of it given.

    Attributes:
        scheme: one of :data:`SCHEMES`.
        hosts: each as ``host:port``, sorted; of ``memory`` the name alone.
        user: of a database, None if the environment decides.
        database: its name, "" where there is none.
        namespace: what separates this instance from others on the same engine.
        ttl: seconds.
    """

    scheme: str
    hosts: tuple[str, ...]
    user: str | None
    database: str
    namespace: str
    ttl: int

    def __str__(self) -> str:
        """The URL in its one canonical form: of two that mean the same, this is the same."""
        user = f"{self.user}@" if self.user else ""
        where = f"{self.scheme}://{user}{','.join(self.hosts)}"
        if self.scheme == "etcd":
            return f"{where}/{self.namespace}?ttl={self.ttl}"
        if self.scheme == "postgresql":
            return f"{where}/{self.database}?namespace={self.namespace}&ttl={self.ttl}"
        return f"{where}?ttl={self.ttl}"


def parse(text: str) -> EngineUrl:
    """Take a URL apart.

    Raises:
        InvalidName: it is not the URL of an engine; the message says which part is wrong.
    """
    scheme, _, rest = text.partition("://")
    found = SCHEMES.get(scheme)
    if found is None:
        raise _wrong(text, f"no engine has the scheme {scheme!r}; there are {', '.join(SCHEMES)}")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    user, at, authority = authority.rpartition("@")
    if ":" in user:
        raise _wrong(text, "it holds a password, and URLs are shown; put credentials into the environment")
    if at and (scheme != "postgresql" or not _WORD.fullmatch(user)):
        raise _wrong(text, f"the user {user!r} is not allowed here; as in {found.example}")
    if "#" in text:
        raise _wrong(text, "it has a fragment (#)")
    options = _options(text, query, found)
    if (path or rest.endswith("/")) and (not found.path or not _WORD.fullmatch(path)):
        raise _wrong(text, f"the path {path!r} is not allowed; as in {found.example}")
    namespace = path if found.path == "namespace" and path else options.get("namespace", NAMESPACE)
    if not _WORD.fullmatch(namespace):
        raise _wrong(text, f"the namespace {namespace!r} is not at most 64 of A-Z a-z 0-9 _ . -")
    if found.path == "database" and not path:
        raise _wrong(text, f"it names no database; as in {found.example}")
    return EngineUrl(
        scheme,
        _hosts(text, authority, found),
        user or None,
        path if found.path == "database" else "",
        namespace,
        _ttl(text, options.get("ttl")),
    )


def _hosts(text: str, authority: str, scheme: _Scheme) -> tuple[str, ...]:
    hosts = set()
    for part in authority.split(","):
        match = _HOST.fullmatch(part)
        port = int(match[2]) if match is not None and match[2] else scheme.port
        if match is None or not (port is None or 0 < port < 1 << 16) or (scheme.port is None and match[2]):
            raise _wrong(text, f"{part!r} is not a host; as in {scheme.example}")
        hosts.add(f"{match[1].lower()}:{port}" if scheme.port else match[1])
    if scheme.port is None and len(hosts) > 1:
        raise _wrong(text, f"one name is allowed; as in {scheme.example}")
    return tuple(sorted(hosts))


def _options(text: str, query: str, scheme: _Scheme) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in query.split("&") if query else []:
        option, _, value = pair.partition("=")
        if option not in scheme.options:
            raise _wrong(text, f"no option {option!r}; there are {', '.join(sorted(scheme.options))}")
        if option in options:
            raise _wrong(text, f"the option {option!r} is given twice")
        options[option] = value
    return options


def _ttl(text: str, given: str | None) -> int:
    if given is None:
        return TTL
    if not (given.isascii() and given.isdigit() and len(given) <= 4 and 1 <= int(given) <= MOST_TTL):
        raise _wrong(text, f"ttl={given!r} is not a number of whole seconds from 1 to {MOST_TTL}")
    return int(given)


def _wrong(text: str, why: str) -> InvalidName:
    shown = _SECRET.sub(r"\1:***@", text[:256])
    return InvalidName(f"{shown!r} is not the URL of an instance: {why}", name=shown, instance=shown)


def missing(url: EngineUrl) -> EngineUnavailable:
    """The error for a URL whose engine this version does not have."""
    return EngineUnavailable(
        f"instance {str(url)!r} needs the engine {url.scheme!r}, and this version of wdkmutex_shm does not have it: "
        "its instances live on one machine; give a plain name such as 'default'",
        name=str(url),
        instance=str(url),
        engine=url.scheme,
    )
