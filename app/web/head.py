"""What the head of a request says: of how long it is, who asks, and from where.

Functions of headers and addresses, for `app.web.security` and for whatever counts by client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from starlette.datastructures import Headers
from starlette.requests import Request

from app.settings import Settings

LONGEST_HEAD = 32 * 1024
"""Bytes of a request's header lines, the address not counted."""
LONGEST_COOKIE = 8 * 1024
"""Bytes of its ``Cookie`` lines."""
PLACES_OF_A_CLIENT = 4
"""Of the queue, where the setting ``client_places`` is not set."""

_HOST = re.compile(r"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")


def host_allowed(headers: Headers, allowed: frozenset[str]) -> bool:
    """Whether there is one Host header, well formed, and its name is on the list."""
    given = headers.getlist("host")
    match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    return match is not None and match[1].lower() in allowed


def cookies(headers: Headers, name: str) -> Iterator[str]:
    """The values of the cookies of this name, as they were sent.

    By a plain split: `http.cookies` unquotes, which takes a minute for 200 KB in some Pythons.
    """
    for line in headers.getlist("cookie"):
        for part in line.split(";"):
            given, _, value = part.partition("=")
            if given.strip() == name:
                yield value.strip()


def may_read(headers: Headers) -> bool:
    """Whether a read was asked for by one of our own pages, by a person, or by no browser.

    What a page of another site embeds, fetches or has fetched ahead would cost the model's time and
    the places in its queue, though that page never sees the answer. A link from there may be
    followed. Over plain http beyond this machine browsers leave the ``Sec-Fetch`` lines out.
    """
    sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    if sites:
        followed = (
            headers.get("sec-fetch-mode") == "navigate"
            and headers.get("sec-fetch-dest") == "document"
            and "sec-purpose" not in headers
        )
        return sites in (["same-origin"], ["none"]) or (len(sites) == 1 and followed)
    # A page of ours sends none with a read; with the address it would have to be the same.
    host = headers.get("host", "").lower()
    return all(one.lower().partition("://")[2] == host for one in origins)


def same_origin(request: Request) -> bool:
    """Whether a write comes from one of our own pages, or from no browser at all.

    A browser says where a request comes from in ``Sec-Fetch-Site``, and over plain http beyond
    this machine, where it leaves that out, in ``Origin``. A request with neither comes from a
    script; it passes if it carries no cookie that somebody could have been tricked into sending.
    """
    headers = request.headers
    sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    has_cookie = any(line.strip("; \t") for line in headers.getlist("cookie"))
    if headers.get("authorization", "").lower().startswith("bearer ") and not has_cookie:
        return True
    if len(sites) > 1 or len(origins) > 1:
        return False
    if sites:
        return sites[0] in ("same-origin", "none")
    if origins:
        return origins[0].lower() == f"{request.url.scheme}://{headers.get('host', '')}".lower()
    return not has_cookie


def too_long(headers: Headers) -> str:
    """What of a request's head is too long, in a sentence, or nothing."""
    if sum(len(line) for line in headers.getlist("cookie")) > LONGEST_COOKIE:
        return (
            f"The cookies of a request may have at most {LONGEST_COOKIE:,} bytes; delete this "
            "site's cookies in the browser."
        )
    if sum(len(name) + len(value) + 4 for name, value in headers.raw) > LONGEST_HEAD:
        return f"The header lines of a request may have at most {LONGEST_HEAD:,} bytes; send less."
    return ""


def client_of(request: Request) -> str:
    """Who asks, for the turns and the limits per client: `network_of` the address."""
    return network_of(request.client.host if request.client else "")


def network_of(host: str) -> str:
    """An address as clients are counted.

    Of an IPv6 address only the network (its first 64 bits), since one machine has all the rest.
    """
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_loopback:
        return str(address)
    return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)


def places_of(settings: Settings, client: str) -> int | None:
    """How many requests a client may have waiting or running; None: no limit of its own."""
    if settings.client_places is not None:
        return settings.client_places or None
    return None if is_here(client) else PLACES_OF_A_CLIENT


def connections_of(settings: Settings, client: str) -> int | None:
    """How many connections a client may have open; None: no limit of its own.

    Behind a proxy every connection has its address, and the proxy does the counting.
    """
    if settings.client_connections is not None:
        return settings.client_connections or None
    return None if is_here(client) or settings.proxies else max(1, settings.connections // 4)


def is_here(client: str) -> bool:
    """Whether a client is this machine itself."""
    try:
        return ipaddress.ip_address(client).is_loopback
    except ValueError:
        return not client
