"""A certificate that nobody but itself signed, for servers of tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """The certificate of 127.0.0.1 and its key; skips where openssl is not installed."""
    if not shutil.which("openssl"):
        pytest.skip("makes a certificate with openssl, which is not installed")
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out",
        "cert.pem",
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"
