"""A request that is ended where it stands, and a key that comes back in disguise."""

import contextlib
import json
import socket
import ssl
import threading
import time

import pytest

from evalkit.errors import MissingError
from evalkit.reward_models.remote import client
from evalkit.reward_models.remote.client import Client, ReplyError
from evalkit.reward_models.remote.line import Line
from evalkit.reward_models.spec import Endpoint
from tests.certificates import own_certificate

KEY = "sk-SECRET/0123\\4567"


@pytest.fixture(autouse=True)
def once(monkeypatch):
    monkeypatch.setattr(client, "ATTEMPTS", 1)


@contextlib.contextmanager
def listening(answer=None, *, backlog=16):
    """The port of a server that does with each connection what it is told, or nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    answer(server.accept()[0])

        if answer:
            threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@contextlib.contextmanager
def full():
    """The port of a server whose queue is full: nobody is refused, and nobody gets in."""
    with listening(backlog=0) as port, contextlib.ExitStack() as waiting:
        for _ in range(4):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(("127.0.0.1", port))
        yield port


def until(happened):
    """Wait for a state, however slow the machine is."""
    end = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def hung_up(url, stands):
    """Whether a request is refused once it is hung up where its line stands as said."""
    asking = Client(Endpoint(url, "m", timeout=60.0))
    said = []

    def ask():
        try:
            asking.ask("/x")
        except (ReplyError, MissingError) as error:
            said.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    until(lambda: any(map(stands, list(asking._lines))))
    assert not said
    asking.close()
    thread.join(20)  # a third of what it would wait by itself
    return bool(said)


def connecting(line):
    """Its socket has a port of its own from the call to connect on."""
    return line._socket is not None and line._socket.getsockname()[1] > 0


def greeting(line):
    return isinstance(line._socket, ssl.SSLSocket)


def test_hanging_up_ends_a_request_that_is_still_connecting():
    with full() as port:
        assert hung_up(f"http://127.0.0.1:{port}", connecting)


def test_hanging_up_ends_a_handshake_of_tls():
    with listening() as port:
        assert hung_up(f"https://127.0.0.1:{port}", greeting)


def test_hanging_up_on_tls_does_not_end_the_encryption(monkeypatch):
    """TLS's own shutdown would have the rest of a request, key and all, go in the clear."""
    unwrapped, real = [], ssl.SSLSocket.shutdown

    def shutdown(sock, how):
        unwrapped.append(how)
        real(sock, how)

    monkeypatch.setattr(ssl.SSLSocket, "shutdown", shutdown)
    with listening() as port:
        assert hung_up(f"https://127.0.0.1:{port}", greeting)
    assert unwrapped == []


def test_hanging_up_ends_the_lookup_of_a_name(monkeypatch):
    looked_up, answered = threading.Event(), threading.Event()

    def lookup(*_, **__):
        looked_up.set()
        answered.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert hung_up("http://127.0.0.1:9", lambda _: looked_up.is_set())
    answered.set()


def test_nothing_is_asked_after_hanging_up():
    asked = []
    with listening(asked.append) as port:
        asking = Client(Endpoint(f"http://127.0.0.1:{port}", "m"))
        asking.close()
        with pytest.raises(MissingError):
            asking.ask("/x")
        time.sleep(0.05)
    assert asked == []


def test_a_deadline_that_passes_while_connecting_is_not_lost(monkeypatch):
    """The one alarm of a deadline may find no socket yet; what connects after it must end too."""
    real, heard = socket.socket.connect, []

    def connect(sock, address):
        until(lambda: all(line.hung_up for line in asking._lines))
        return real(sock, address)

    def hear(connection):
        with connection:
            heard.append(connection.recv(4096))

    monkeypatch.setattr(socket.socket, "connect", connect)
    with listening(hear) as port:
        asking = Client(Endpoint(f"http://127.0.0.1:{port}", "m", timeout=0.2))
        with pytest.raises(MissingError, match=r"no whole reply within 0\.2 s"):
            asking.ask("/x")
        until(lambda: heard)
    assert heard == [b""]


def test_the_next_address_is_tried_where_one_refuses(monkeypatch):
    """`localhost` is ::1 first, where most servers do not listen."""

    def answer(connection):
        with connection:
            connection.recv(4096)
            connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}')

    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()
    with listening(answer) as port:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [(*kind, closed), (*kind, ("127.0.0.1", port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert Client(Endpoint(f"http://localhost:{port}", "m", timeout=20.0)).ask("/x") == {"a": 1}


def test_a_line_that_was_hung_up_connects_no_more():
    with listening() as port:
        line = Line(f"http://127.0.0.1:{port}", 5.0)
        line.hang_up()
        with pytest.raises(TimeoutError):
            line.connect()
        assert not line.connected
        line.close()


@pytest.mark.parametrize("vouched", [True, False])
def test_tls_asks_only_whom_a_certificate_vouches_for(tmp_path, monkeypatch, vouched):
    certificate, key = own_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    heard = []

    def answer(connection):
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
            heard.append(tls.recv(4096))
            tls.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}')

    if vouched:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with listening(answer) as port:
        asking = Client(Endpoint(f"https://127.0.0.1:{port}", "m", timeout=5.0))
        if vouched:
            assert asking.ask("/x") == {"a": 1}
        else:
            with pytest.raises(MissingError, match="CERTIFICATE_VERIFY_FAILED"):
                asking.ask("/x")
    assert any(heard) is vouched


@pytest.fixture
def keyed(monkeypatch):
    monkeypatch.setenv("RM_KEY", KEY)

    def said(reply):
        def answer(connection):
            with connection:
                connection.recv(65536)
                connection.sendall(reply)

        with listening(answer) as port, pytest.raises((ReplyError, MissingError)) as refusal:
            Client(Endpoint(f"http://127.0.0.1:{port}", "m", key_env="RM_KEY", timeout=5.0)).ask(
                "/"
            )
        return str(refusal.value)

    return said


def with_body(body):
    return b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def hidden(text):
    return "SECRET" not in text and "0123" not in text


def test_a_key_in_place_of_a_status_line_is_not_shown(keyed):
    assert keyed(f"Authorization: Bearer {KEY}\r\n\r\n".encode()).endswith("speak HTTP")
    assert hidden(keyed(f"HTTP/{KEY} 200 OK\r\n\r\n".encode()))


@pytest.mark.parametrize(
    "shape",
    [
        KEY,
        json.dumps(KEY)[1:-1],
        json.dumps(KEY)[1:-1].replace("/", "\\/"),
        json.dumps(json.dumps(KEY).replace("/", "\\/")),
        "".join(f"\\u{ord(c):04X}" for c in KEY),
        "".join(f"\\\\u{ord(c):04x}" for c in KEY),
        KEY.replace("/", "%2f").replace("\\", "%5C"),
    ],
)
def test_a_key_that_comes_back_escaped_is_not_shown(keyed, shape):
    said = keyed(with_body(b'{"error": "bad key ' + shape.encode() + b'"}'))
    assert "bad key" in said
    assert "***" in said
    assert hidden(said)
    assert "0053" not in said  # its S, spelt
