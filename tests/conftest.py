"""Servers that many tests share; each test uses a bucket of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import RadosGw, Rclone

# sshd and nft live where a user's PATH often does not go.
os.environ["PATH"] += ":/usr/sbin:/sbin"


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGw]:
    with RadosGw(tmp_path_factory.mktemp("radosgw")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    with Rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parent.parent
