"""Owns the wire between functions and server: a TCP proxy that counts messages, and lets one of them go wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

DELAY_SECONDS = 0.05


class Messages:
    """Splits one direction of PostgreSQL's protocol 3: type byte, then a length that counts itself; see its chapter 54.

    The first message of a frontend, startup, has no type byte. TLS and GSSAPI are off: nothing comes before it.
    """

    def __init__(self, *, starts_up: bool) -> None:
        self._rest, self._has_type = b"", not starts_up

    def of(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now."""
        self._rest += data
        while len(self._rest) >= (head := 4 + self._has_type):
            end = head - 4 + int.from_bytes(self._rest[head - 4 : head])
            if len(self._rest) < end:
                return
            message, self._rest, self._has_type = self._rest[:end], self._rest[end:], True
            yield message


class Side(StrEnum):
    """Who sent a message."""

    CLIENT = "client"
    SERVER = "server"


class Fault(StrEnum):
    """What happens instead of a message; the last two go on until the proxy is healed."""

    DELAY = "delay"
    CUT = "cut"
    """Both ends find the connection closed; the message is gone."""
    TEAR = "tear"
    """The same, in the middle of the message."""
    HALF_CLOSE = "half-close"
    """Its receiver finds the connection closed by its sender, who hears on."""
    SWALLOW = "swallow"
    """Its receiver waits: nothing of its sender comes any more."""
    OUTAGE = "outage"
    """Cut, and so is every new connection."""
    BLACKOUT = "blackout"
    """Swallowed, and so is whatever is sent on any connection."""


class Place(NamedTuple):
    """The how-manieth message of a side, from 0, since the proxy was last told to forget."""

    side: Side
    number: int


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = {Side.CLIENT: client, Side.SERVER: server}
        self.is_silent = dict.fromkeys(Side, False)
        """Whether what a side sends is thrown away."""
        for end in self.ends.values():
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for end in self.ends.values():
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Stands between functions and the server of ``url``; counts, and lets one message go wrong when it is told to."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = str(parts.hostname), parts.port or 5432
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        at = f"{parts.username}:{parts.password or ''}@127.0.0.1:{port}"
        query = "&".join(filter(None, [parts.query, "sslmode=disable&gssencmode=disable"]))
        self.url = parts._replace(netloc=at, query=query).geturl()
        """The same database, by way of the proxy."""
        self._links: list[_Link] = []
        self._fault: tuple[Place, Fault] | None = None
        self._lasting: Fault | None = None
        self.forget()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def round_trips(self) -> int:
        """How often the frontend waited: Sync of the extended protocol, Query of the simple one, startup."""
        return self.sent["S"] + self.sent["Q"] + self.sent[""]

    @property
    def sent(self) -> Counter[str]:
        """The frontend's messages by type; "" is startup's."""
        return Counter(self.messages[Side.CLIENT])

    def forget(self) -> None:
        """Count anew."""
        self.messages: dict[Side, list[str]] = {side: [] for side in Side}
        """The types of each side's messages, in order."""
        self.completed: list[str] = []
        self.ready: Counter[str] = Counter()

    def disturb(self, place: Place, fault: Fault) -> None:
        """Count anew, and let that message go wrong."""
        self.forget()
        self._fault = place, fault

    def heal(self) -> None:
        """From now on all goes well; connections on which something went wrong are closed."""
        self._fault = self._lasting = None
        for link in self._links:
            if any(link.is_silent.values()):
                link.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                if self._lasting is Fault.OUTAGE:
                    client.close()
                    continue
                link = _Link(client, socket.create_connection(self._server))
                if self._lasting is Fault.BLACKOUT:
                    link.is_silent = dict.fromkeys(Side, True)
                self._links.append(link)
                for side in Side:
                    threading.Thread(target=self._pump, args=(link, side), daemon=True).start()

    def _pump(self, link: _Link, side: Side) -> None:
        source = link.ends[side]
        target = link.ends[Side.SERVER if side is Side.CLIENT else Side.CLIENT]
        messages = Messages(starts_up=side is Side.CLIENT)
        has_started = side is Side.SERVER
        with suppress(OSError):
            while data := source.recv(65536):
                for message in messages.of(data):
                    fault = self._note(side, message, is_startup=not has_started)
                    has_started = True
                    if fault:
                        self._go_wrong(fault, link, side, target, message)
                    if not link.is_silent[side]:
                        target.sendall(message)
            if not link.is_silent[side]:
                target.shutdown(socket.SHUT_WR)

    def _note(self, side: Side, message: bytes, *, is_startup: bool) -> Fault | None:
        """Count the message before it goes on: whoever has an answer finds it counted. The fault that it meets."""
        place = Place(side, len(self.messages[side]))
        kind = "" if is_startup else chr(message[0])
        self.messages[side].append(kind)
        if side is Side.SERVER and kind == "C":
            self.completed.append(message[5:].rstrip(b"\0").decode())
        elif side is Side.SERVER and kind == "Z":
            self.ready[message[5:].decode()] += 1
        if self._fault and self._fault[0] == place:
            return self._fault[1]
        return None

    def _go_wrong(self, fault: Fault, link: _Link, side: Side, target: socket.socket, message: bytes) -> None:
        if fault in {Fault.OUTAGE, Fault.BLACKOUT}:
            self._lasting = fault
        match fault:
            case Fault.DELAY:
                time.sleep(DELAY_SECONDS)
            case Fault.CUT | Fault.OUTAGE:
                link.close()
            case Fault.TEAR:
                target.sendall(message[: len(message) // 2])
                link.close()
            case Fault.HALF_CLOSE:
                link.is_silent[side] = True
                target.shutdown(socket.SHUT_WR)
            case Fault.SWALLOW:
                link.is_silent[side] = True
            case Fault.BLACKOUT:
                for other in self._links:
                    other.is_silent = dict.fromkeys(Side, True)
