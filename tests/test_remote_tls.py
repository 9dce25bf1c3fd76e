"""TLS that cannot come about is no server that is away: it is said at once, with what helps."""

import ssl
import time

import pytest

from evalkit.errors import MissingError
from evalkit.reward_models import load
from evalkit.reward_models.remote import client
from tests.certificates import own_certificate
from tests.endpoints import declare
from tests.reward_server import RewardServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return own_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(certificate):
    """A server that speaks TLS, and its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = RewardServer("vllm")
    server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
    with server:
        yield server, server.url.replace("http:", "https:")


def refusal(folder, url):
    asking = client.Client(declare(folder / "w", url).endpoint)
    begun = time.monotonic()
    with pytest.raises(MissingError) as error:
        asking.ask("/v1/models")
    assert time.monotonic() - begun < 3  # the pauses between five attempts are more than 7
    return str(error.value)


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(tmp_path, secure, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 1.0)
    server, url = secure
    said = refusal(tmp_path, url)
    assert "self-signed certificate" in said or "self signed certificate" in said
    assert "fix: SSL_CERT_FILE=FILE" in said
    assert server.requests == []


def test_a_certificate_that_is_named_is_taken(tmp_path, secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    load(declare(tmp_path / "w", secure[1]))


def test_https_at_a_port_that_speaks_plain_http_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 1.0)
    with RewardServer("vllm") as server:
        said = refusal(tmp_path, server.url.replace("http:", "https:"))
    assert 'fix: endpoint = "http://…"' in said
