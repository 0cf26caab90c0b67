"""Connections that a client cannot hold open for nothing: one uvicorn protocol with deadlines.

uvicorn by itself closes a connection that is idle after an answer, and none other: one on which no
request ever begins, one whose head or left-over body arrives byte by byte, and one whose answer
nobody takes stay open for ever. `GuardedProtocol` notes since when a connection waits, and
`Connections` closes what has waited too long. A body that the app reads has its deadline there
(`app.web.security.Body`).

Of uvicorn's `H11Protocol` this leans on the callbacks ``connection_made``, ``connection_lost``,
``data_received``, ``on_response_complete``, ``send_400_response`` and ``shutdown``, and on the
attributes ``app_state``, ``client``, ``conn``, ``connections``, ``cycle``, ``logger`` and
``transport``; tests fail when one of them is gone.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.settings import Settings
from app.web.head import connections_of, network_of
from app.web.security import FULL, HEADERS

MARGIN = 128
"""Connections beyond the limit that still get a sentence; further ones are closed unanswered."""
_MARGIN_OF_ONE = 16
"""The same for one client's."""
WHY = ("full", "idle", "late_head", "malformed", "not_taken")
_SETTLED_S = 1.0
_LATE = "The head of the request took too long to arrive."
_MALFORMED = "The request is not HTTP/1.1 as this server reads it."
# What a stranger sends is answered and counted, and is no news for the operator: uvicorn warns of
# each request that is malformed or asks for a WebSocket, and so anybody could fill the log.
_log = logging.getLogger("lexiscope.connections")
_log.setLevel(logging.ERROR)


class Connections:
    """The open connections of one server: how many there may be, and how long they may wait.

    For the event loop's thread, but for `figures`.
    """

    def __init__(
        self,
        *,
        limit: int,
        head_deadline_s: float,
        send_deadline_s: float,
        share: Callable[[str], int | None] = lambda client: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it empty.

        Args:
            limit: open connections; one more takes the place of the one that has been idle
                longest, or is answered 503.
            head_deadline_s: seconds in which a request's head, or what is left of a body whose
                answer is out, must have arrived.
            send_deadline_s: seconds in which a client must take something of what is sent.
            share: open connections that a client may have, by `network_of` its address; one more
                is treated as one too many in all; None: no limit of its own.
            clock: monotonic seconds.
        """
        self.limit = limit
        self.share = share
        self.held: Counter[str] = Counter()
        """Open connections by client."""
        self.head_deadline_s = head_deadline_s
        self.send_deadline_s = send_deadline_s
        self.clock = clock
        self.open = 0
        self.closed: dict[str, int] = dict.fromkeys(WHY, 0)
        """Connections that this server gave up, by why. full: answered 503 or closed because there
        were too many; idle: made room for another; late_head: a head or the rest of a body did not
        come in time; malformed: what came is not HTTP; not_taken: the client took nothing of an
        answer in time."""

    @classmethod
    def of(cls, settings: Settings) -> Connections:
        """As the settings say."""
        return cls(
            limit=settings.connections,
            head_deadline_s=settings.head_deadline_s,
            send_deadline_s=settings.send_deadline_s,
            share=partial(connections_of, settings),
        )

    @property
    def figures(self) -> dict[str, float]:
        """The counters, for watching."""
        return {name: float(n) for name, n in self.closed.items()}

    def protocol(self) -> type[GuardedProtocol]:
        """The protocol class to hand to uvicorn."""
        return type("Guarded", (GuardedProtocol,), {"book": self})

    def admit(self, newcomer: GuardedProtocol) -> None:
        """Make room for a connection, or have it told that there is none."""
        share, own = self.share(newcomer.client_name), self.held[newcomer.client_name]
        greedy = share is not None and own > share
        if self.open <= self.limit and not greedy:
            return
        now = self.clock()
        # An idle browser gives way. Who has only just come does not: its head is on its way.
        idle = (one for one in newcomer.connections if isinstance(one, GuardedProtocol))
        if greedy:  # others keep theirs
            idle = (one for one in idle if one.client_name == newcomer.client_name)
        settled = [one for one in idle if one is not newcomer and one.idle_s(now) > _SETTLED_S]
        if settled:
            self.closed["idle"] += 1
            max(settled, key=lambda one: one.idle_s(now)).transport.abort()
            return
        self.closed["full"] += 1
        if self.open > self.limit + MARGIN or (share is not None and own > share + _MARGIN_OF_ONE):
            newcomer.transport.abort()
        else:
            newcomer.app_state = {**newcomer.app_state, FULL: True}

    def sweep(self, connections: Iterable[object]) -> None:
        """Close what has waited too long; called a few times per deadline."""
        now = self.clock()
        for one in tuple(connections):
            if isinstance(one, GuardedProtocol):
                one.look(now)


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 on one connection, under the deadlines of its `Connections`."""

    book: ClassVar[Connections]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        self.logger = _log
        super().connection_made(transport)
        now = self.book.clock()
        self._waits_since: float | None = now
        """Since when a head, or the rest of an answered request's body, is being waited for."""
        self._quiet_since: float | None = now
        """Since when nothing is under way; None while a request is being answered."""
        self._unsent, self._taken = 0, now
        self.client_name = network_of(self.client[0] if self.client else "")
        self.book.open += 1
        self.book.held[self.client_name] += 1
        self.book.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self.book.open -= 1
        self.book.held[self.client_name] -= 1
        if not self.book.held[self.client_name]:
            del self.book.held[self.client_name]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; the deadline counts from the first of them."""
        super().data_received(data)
        self._settle()
        if self._quiet_since is not None and self._waits_since is None:
            self._waits_since = self.book.clock()

    def on_response_complete(self) -> None:
        """An answer is out; uvicorn closes the connection when nothing follows."""
        super().on_response_complete()  # which may begin the next request
        self._settle()

    def shutdown(self) -> None:
        """The server ends."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.transport.abort()  # an answer that nobody takes; there is nothing to end well

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, in the same manner as everything else is answered."""
        self.book.closed["malformed"] += 1
        self._refuse(400, _MALFORMED)

    @property
    def quiet(self) -> bool:
        """Whether an answer was given whole and nothing has come since."""
        return self._quiet_since is not None

    def idle_s(self, now: float) -> float:
        """Seconds since something was under way here; 0 while something is."""
        if self._quiet_since is None or self.transport.is_closing():
            return 0.0
        return now - self._quiet_since

    def look(self, now: float) -> None:
        """Close the connection if its client has let it wait too long."""
        unsent = self._unsent_bytes()
        if unsent == 0 or unsent < self._unsent:
            self._taken = now
        self._unsent = unsent
        if unsent and now - self._taken > self.book.send_deadline_s:
            self.book.closed["not_taken"] += 1
            self.transport.abort()
        elif self.transport.is_closing() or self._waits_since is None:
            return
        elif now - self._waits_since > self.book.head_deadline_s:
            self.book.closed["late_head"] += 1
            begun, _ = self.conn.trailing_data
            if begun:
                self._refuse(408, _LATE)
            else:
                self.transport.close()

    def _unsent_bytes(self) -> int:
        """Of what was written, what the client has not taken; 0 once all is with the kernel.

        The kernel takes megabytes at a time where there is room, so a slow client that reads on
        shows in what the kernel holds, long before it shows in what waits here.
        """
        waiting = self.transport.get_write_buffer_size()
        return waiting + _in_kernel(self.transport) if waiting else 0

    def _settle(self) -> None:
        """Note whether a request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._waits_since = self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = self.book.clock()

    def _refuse(self, status: int, sentence: str) -> None:
        """One sentence outside of any request, and the end of the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = f"{sentence}\n".encode("ascii")
            headers: list[tuple[str, str]] = [
                *HEADERS.items(),
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("Connection", "close"),
            ]
            events: list[Any] = [h11.Response(status_code=status, headers=headers)]
            bare = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] == "HEAD"
            if not bare:
                events.append(h11.Data(data=body))
            events.append(h11.EndOfMessage())
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # what is still being computed has no reader
            self.cycle.message_event.set()
        self.transport.close()


def _in_kernel(transport: asyncio.Transport) -> int:
    """Bytes that the kernel holds and the client has not confirmed; 0 where it cannot say."""
    if not sys.platform.startswith("linux"):
        return 0
    import fcntl
    import termios

    try:
        held = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (AttributeError, OSError, ValueError):  # no socket, or one that is closed
        return 0
    return int.from_bytes(held, sys.byteorder)
