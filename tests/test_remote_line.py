"""A request that is ended where it stands, and a key that comes back in disguise."""

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from evalkit.errors import MissingError
from evalkit.reward_models.remote import client
from evalkit.reward_models.remote.client import Client, ReplyError
from evalkit.reward_models.remote.line import Line
from evalkit.reward_models.spec import Endpoint

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


def ended(url, **keys):
    """How long a request goes on after it is hung up, and how."""
    asking = Client(Endpoint(url, "m", **{"timeout": 30.0, **keys}))
    said = []

    def ask():
        try:
            asking.ask("/x")
        except (ReplyError, MissingError) as error:
            said.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    time.sleep(0.2)
    begun = time.monotonic()
    asking.close()
    thread.join(5)
    assert said
    return time.monotonic() - begun


def slow_lookup(monkeypatch, seconds):
    real = socket.getaddrinfo

    def lookup(*args, **keys):
        time.sleep(seconds)
        return real(*args, **keys)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def test_hanging_up_ends_a_request_that_is_still_connecting():
    with full() as port:
        assert ended(f"http://127.0.0.1:{port}") < 1


def test_hanging_up_ends_a_handshake_of_tls():
    with listening() as port:
        assert ended(f"https://127.0.0.1:{port}") < 1


def test_hanging_up_ends_the_lookup_of_a_name(monkeypatch):
    slow_lookup(monkeypatch, 4)
    assert ended("http://127.0.0.1:9") < 1


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
    real = socket.socket.connect

    def connect(sock, address):
        time.sleep(0.4)
        return real(sock, address)

    def drip(connection):
        with contextlib.suppress(OSError), connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
            for _ in range(20):
                time.sleep(0.1)
                connection.sendall(b" ")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with listening(drip) as port:
        begun = time.monotonic()
        with pytest.raises(MissingError, match=r"no whole reply within 0\.2 s"):
            Client(Endpoint(f"http://127.0.0.1:{port}", "m", timeout=0.2)).ask("/x")
        assert time.monotonic() - begun < 1


def test_a_line_that_was_hung_up_connects_no_more():
    with listening() as port:
        line = Line(f"http://127.0.0.1:{port}", 5.0)
        line.hang_up()
        with pytest.raises(TimeoutError):
            line.connect()
        assert not line.connected
        line.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to write a certificate")
@pytest.mark.parametrize("vouched", [True, False])
def test_tls_asks_only_whom_a_certificate_vouches_for(tmp_path, monkeypatch, vouched):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-subj", "/CN=here", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
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
        KEY.replace("/", "%2f").replace("\\", "%5C"),
    ],
)
def test_a_key_that_comes_back_escaped_is_not_shown(keyed, shape):
    said = keyed(with_body(b'{"error": "bad key ' + shape.encode() + b'"}'))
    assert "bad key" in said
    assert "***" in said
    assert hidden(said)
    assert "0053" not in said  # its S, spelt
