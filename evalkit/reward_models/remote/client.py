"""HTTP to one server: one deadline over a whole request, strict JSON, a key that nobody sees.

A deadline over a reply that comes a byte at a time must close the socket itself (`line`), and
neither redirects nor proxies may carry a key elsewhere.
"""

from __future__ import annotations

import email.utils
import json
import math
import os
import re
import ssl
import threading
import time
from collections.abc import Mapping
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPException,
    IncompleteRead,
    RemoteDisconnected,
)
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from evalkit.errors import InputError, MissingError
from evalkit.reward_models.remote.line import Line
from evalkit.reward_models.spec import Endpoint
from evalkit.strict_json import Decoder, ProblemError

ATTEMPTS = 5
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
LONGEST_RETRY_AFTER = 60.0
LARGEST_REPLY = 16 * 2**20
QUOTED = 160
HIDDEN = b"***"
BUSY = (429, 503)
PASSING = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)
HOPELESS = {
    401: "the key is missing or wrong: key_env",
    403: "the key has no right to it: key_env",
    404: "check endpoint, dialect and model in evalkit.toml",
    405: "check endpoint and dialect in evalkit.toml",
}


class ReplyError(RuntimeError):
    """A request without a usable reply: its rows have no reward."""


class Answer(NamedTuple):
    """What came of one request.

    Attributes:
        status: Of the reply; 0 if there was none.
        body: Of the reply.
        retry_after: Seconds the server asks to wait.
        problem: Why there is no whole reply; empty if there is.
        connected: Whether there was a connection at all.
        fix: What alone helps; empty if the same request may do better later.
    """

    status: int = 0
    body: bytes = b""
    retry_after: float = 0.0
    problem: str = ""
    connected: bool = True
    fix: str = ""

    @property
    def passes(self) -> bool:
        """Whether the same request may do better later."""
        return not self.fix and (self.status in {0, 408, 429} or self.status >= 500)


class Client:
    """Asks one server. Requests may run in several threads.

    Args:
        endpoint: Where it is.

    Raises:
        MissingError: The environment variable of the key is not set.
        InputError: The key holds what no header can.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = endpoint.url
        self._timeout = endpoint.timeout
        self._patience = max(LONGEST_PAUSE, 2 * endpoint.timeout)
        self._path = urlsplit(endpoint.url).path
        self._key = _key(endpoint.key_env)
        self._rng = np.random.default_rng(os.getpid())  # for waiting alone; no number depends on it
        self._closing = threading.Event()
        self._lines: set[Line] = set()

    def ask(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """POST a body, or GET without one; the reply as strict JSON.

        What may pass (no connection, 408, 429, 5xx) is asked again after a pause that doubles, or
        the one the server asks for, until it has taken as long as two timeouts.

        Raises:
            ReplyError: No usable reply.
            MissingError: No further request can do better: nobody there, no right, no such path,
                or a server that stays too busy.
        """
        begun = time.monotonic()
        for attempt in range(ATTEMPTS):
            answer = self._exchange(path, body)
            over = time.monotonic() - begun > self._patience
            if not answer.passes or over or attempt == ATTEMPTS - 1 or self._closing.is_set():
                break
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * self._rng.uniform(0.5, 1)
            self._closing.wait(max(float(pause), answer.retry_after))
        return self._read(answer, path)

    def close(self) -> None:
        """Hang up on every request under way and pause no more."""
        self._closing.set()
        for line in list(self._lines):
            line.hang_up()

    def _read(self, answer: Answer, path: str) -> Any:
        if 200 <= answer.status < 300:
            return _json(answer.body)
        shown = _shown(answer.body)
        said = (
            f"HTTP {answer.status}{f': {shown}' if shown else ''}"
            if answer.status
            else (answer.problem)
        )
        if not answer.connected or answer.status in {*BUSY, *HOPELESS}:
            raise MissingError(
                f"the server of a reward model cannot be used: {said}",
                where=f"{self.url}{path}",
                fix=answer.fix
                or HOPELESS.get(
                    answer.status,
                    "start it, or correct endpoint in evalkit.toml; what was scored is kept, the "
                    "same command goes on from there",
                ),
            )
        raise ReplyError(said)

    def _exchange(self, path: str, body: Mapping[str, object] | None) -> Answer:
        """One request and its whole reply, or why there is none, before the deadline."""
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        line = Line(self.url, self._timeout)
        watchdog = threading.Timer(self._timeout, line.hang_up)
        watchdog.daemon = True
        watchdog.start()
        self._lines.add(line)
        if self._closing.is_set():  # and so close() may have missed this one
            line.hang_up()
        try:
            line.connect()
            method = "GET" if data is None else "POST"
            line.connection.request(method, f"{self._path}{path}", data, self._headers())
            answer = _whole(line.connection)
        except (OSError, HTTPException, ValueError) as error:
            answer = Answer(problem=_why(error), fix="" if line.connected else _fix(error))
        finally:
            watchdog.cancel()
            self._lines.discard(line)
            line.close()
        if line.hung_up or "timed out" in answer.problem:
            answer = Answer(problem=f"no whole reply within {self._timeout:g} s")
        return self._without_key(answer)._replace(connected=line.connected)

    def _without_key(self, answer: Answer) -> Answer:
        """The reply without the key, should the server repeat it: nothing else is ever quoted."""
        if not self._key:
            return answer
        shapes = _shapes(self._key)
        return answer._replace(
            body=shapes.sub(HIDDEN, answer.body),
            problem=shapes.sub(HIDDEN, answer.problem.encode("utf-8", "replace")).decode(),
        )

    def _headers(self) -> dict[str, str]:
        found = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        return found | ({"Authorization": f"Bearer {self._key}"} if self._key else {})


def _whole(connection: HTTPConnection) -> Answer:
    """The reply, unless it is too large or ends before its announced end."""
    response = connection.getresponse()
    body = response.read(LARGEST_REPLY + 1)
    if len(body) > LARGEST_REPLY:
        return Answer(problem=f"a reply of more than {LARGEST_REPLY // 2**20} MiB")
    if response.length:
        return Answer(problem="the connection was closed before the end of the reply")
    return Answer(response.status, body, _retry_after(response.getheader("Retry-After")))


def _fix(error: Exception) -> str:
    """What alone helps where TLS does not come about; empty where another attempt may."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "SSL_CERT_FILE=FILE in the environment, with the certificate of who signed the server's"
        )
    if not isinstance(error, ssl.SSLError) or isinstance(error, PASSING):
        return ""
    return 'endpoint = "http://…" in evalkit.toml if the server speaks plain HTTP there'


def _why(error: Exception) -> str:
    """Why there is no reply; what stands where a status line must may be anything."""
    if isinstance(error, IncompleteRead):
        return "the connection was closed before the end of the reply"
    if isinstance(error, BadStatusLine) and not isinstance(error, RemoteDisconnected):
        return "what answers there does not speak HTTP"
    return f"{type(error).__name__}: {error}"


def _shapes(key: str) -> re.Pattern[bytes]:
    """A key as it stands in a text, in JSON however often escaped, or in an address."""
    characters = []
    for c in key.encode():
        plain = re.escape(bytes([c]))
        other = b"(?i:\\\\{1,8}u00%02x|%%%02x)" % (c, c)
        characters.append(b"(?:\\\\{0,8}%s|%s)" % (plain, other))
    return re.compile(b"".join(characters))


def _json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8").strip()
        value, end = Decoder().decode(text)
    except UnicodeDecodeError:
        raise ReplyError("the reply is not UTF-8") from None
    except ProblemError as problem:
        field = f"{problem.field} " if problem.field else ""
        raise ReplyError(f"the reply {field}{problem}: {_shown(body)}") from None
    if end != len(text):
        raise ReplyError("the reply goes on after its JSON")
    return value


def _shown(body: bytes) -> str:
    """The beginning of a reply, on one line."""
    text = " ".join(body[: 8 * QUOTED].decode("utf-8", "replace").split())
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def _retry_after(value: str | None) -> float:
    """Seconds, from a number of them or a date; 0 for anything else."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _key(name: str) -> str:
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise MissingError(
            f"the environment variable {name} is not set, which holds the key of an endpoint",
            fix=f"export {name}=…, or take key_env out of evalkit.toml",
        )
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"the environment variable {name} holds characters that no HTTP header can",
            fix="set it to the key alone",
        )
    return key
