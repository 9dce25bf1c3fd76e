"""A connection that another thread can end, wherever it stands.

The standard library's client shows its socket only when the connection is there, so a deadline or
an interrupt would find nothing to close while an address is looked up, connected to or greeted.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError
from http.client import HTTPConnection, HTTPSConnection
from typing import Any, TypeVar
from urllib.parse import urlsplit

HUNG_UP = "hung up"
Socket = TypeVar("Socket", bound=socket.socket)


class Line:
    """One connection to a server, for one request.

    Args:
        url: Of the server.
        timeout: Seconds that any one step may take.

    Attributes:
        connection: Speaks HTTP over it.
        connected: Whether there was a connection.
        hung_up: Whether it was ended.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        self._host, self._timeout = str(parts.hostname), timeout
        self._secure = parts.scheme == "https"
        kind = HTTPSConnection if self._secure else HTTPConnection
        self.connection = kind(self._host, parts.port, timeout=timeout)
        self.connected = self.hung_up = False
        self._socket: socket.socket | None = None
        self._addresses: Future[list[Any]] = Future()
        self._lock = threading.Lock()

    def connect(self) -> None:
        """Connect to the first address that answers.

        Raises:
            OSError: None does, or it was hung up.
        """
        sock = self._reach()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._secure:
            context = ssl.create_default_context()
            sock = context.wrap_socket(
                sock, server_hostname=self._host, do_handshake_on_connect=False
            )
            self._hold(sock).do_handshake()
        self.connection.sock = self._hold(sock)
        self.connected = True

    def hang_up(self) -> None:
        """End it: what looks up, connects, reads or writes fails at once."""
        with self._lock:
            self.hung_up = True
            self._addresses.cancel()
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    # TLS's own shutdown would have the rest of a request go in the clear
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give back what it holds."""
        self.connection.close()
        if self._socket is not None:
            self._socket.close()

    def _hold(self, sock: Socket) -> Socket:
        """Make a socket the one to end; where that has come first, it is closed instead."""
        with self._lock:
            self._socket = sock
            if self.hung_up:
                sock.close()
                raise TimeoutError(HUNG_UP)
        return sock

    def _reach(self) -> socket.socket:
        failed: OSError = OSError(f"no address of {self._host}")
        for family, kind, protocol, _, address in self._looked_up():
            sock = self._hold(socket.socket(family, kind, protocol))
            sock.settimeout(self._timeout)
            try:
                sock.connect(address)
            except OSError as error:
                sock.close()
                failed = error
            else:
                return self._hold(sock)
        raise failed

    def _looked_up(self) -> list[Any]:
        """The addresses, asked for in a thread of their own: a lookup cannot be ended."""
        threading.Thread(target=self._look_up, daemon=True).start()
        try:
            return self._addresses.result()
        except CancelledError:
            raise TimeoutError(HUNG_UP) from None

    def _look_up(self) -> None:
        try:
            port = self.connection.port
            found = socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            with contextlib.suppress(InvalidStateError):  # hung up meanwhile
                self._addresses.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                self._addresses.set_result(found)
