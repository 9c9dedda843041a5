"""How many may be connected: in all, of one address, and on the doorstep, where nobody has said yet who calls. No Sanic, no Rasa."""

import ipaddress
import re
from collections import Counter
from contextlib import contextmanager
from typing import ContextManager, Hashable, Iterator

from spoken_intents.errors import ProtocolError

NETWORK = 64  # bits of an IPv6 address: who has one has all that begin like it
UNKNOWN = "unknown"
_WITH_PORT = re.compile(r"\[(?P<v6>[^]]*)\](:\d+)?|(?P<v4>[^:]*):\d+")


class Places:
    """The connections of one channel, or its recordings over HTTP, in this process.

    Args:
        most: Calls at the same time, and, each not counted among the others, recordings and callers who have yet to say who
            they are.
        most_of_address: Connections of one address; 0: as many as there are places.
    """

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._taken: "Counter[Hashable]" = Counter()

    @property
    def calls(self) -> int:
        """Those that are open."""
        return self._taken["call"]

    @property
    def full(self) -> bool:
        """Whether as many calls are open as may be."""
        return self.calls >= self._most

    def call(self) -> ContextManager[None]:
        """A place for a call, for as long as it lasts.

        Raises:
            ProtocolError: (``too_many_calls``) All are taken.
        """
        open_now = f"{self._taken['call']} calls are open, and no more are taken. Try again later."
        return self._one("call", self._most, ProtocolError("too_many_calls", open_now, 4503))

    def doorstep(self) -> ContextManager[None]:
        """A place to say who calls.

        Raises:
            ProtocolError: (``too_many_calls``) All are taken.
        """
        return self._one("doorstep", self._most, ProtocolError("too_many_calls", "Too many callers at once. Try again.", 4503))

    def upload(self) -> ContextManager[None]:
        """A place for a recording, until nothing is left to be done about it.

        Raises:
            ProtocolError: (``too_many_uploads``) All are taken.
        """
        many = f"{self._most} recordings are being answered, and no more are taken. Try again later."
        return self._one("upload", self._most, ProtocolError("too_many_uploads", many, 4503))

    def of_address(self, address: str) -> ContextManager[None]:
        """One more connection of an address, for as long as it lasts.

        Raises:
            ProtocolError: (``too_many_of_address``) It has as many as it may.
        """
        caller = counted_as(address)
        most = self._most_of_address if caller else 0
        many = f"{most} connections are open from your address, and no more are taken."
        return self._one(("address", caller), most, ProtocolError("too_many_of_address", many, 4429))

    @contextmanager
    def _one(self, kind: Hashable, most: int, refusal: ProtocolError) -> Iterator[None]:
        if 0 < most <= self._taken[kind]:
            raise refusal
        self._taken[kind] += 1
        try:
            yield
        finally:
            self._taken[kind] -= 1
            if not self._taken[kind]:
                del self._taken[kind]


def counted_as(address: str) -> str:
    """What addresses of one caller have in common; empty for this machine's own, where a proxy may speak for many.

    Some proxies add the port, another one for each connection: it says nothing of who calls. All that is no address counts as
    one, or who makes some up would have as many places as there are words.
    """
    if not address:
        return ""  # a Unix socket
    with_port = _WITH_PORT.fullmatch(address)
    try:
        ip = ipaddress.ip_address(address if with_port is None else with_port["v6"] or with_port["v4"] or "")
    except ValueError:
        return UNKNOWN
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_loopback:
        return ""
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, NETWORK), strict=False))
