"""Certificates for tests, made by `openssl`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Certificate(NamedTuple):
    cert: Path
    key: Path


def make_certificate(folder: Path, name: str = "server", authority: Certificate | None = None) -> Certificate:
    """For 127.0.0.1 and localhost; its own authority unless one is given."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there")
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    argv += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    argv += ["-keyout", str(made.key), "-out", str(made.cert)]
    if authority is not None:
        argv += ["-CA", str(authority.cert), "-CAkey", str(authority.key), "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(argv, check=True, capture_output=True)
    return made
