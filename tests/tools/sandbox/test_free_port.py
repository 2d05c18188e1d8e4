"""Ports for servers of this machine."""

import secrets
import socket

import pytest

from tools.sandbox.local_airflow import free_port


def test_used_port_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        used = free_port()
        server.bind(("127.0.0.1", used))
        tried = iter([used, used, used + 1, used + 2])
        monkeypatch.setattr(secrets, "randbelow", lambda count: next(tried) - 20_000)
        assert free_port() > used


def test_foreign_address_is_refused() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        free_port("192.0.2.1")
