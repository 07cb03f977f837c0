"""Servers that many tests share; each test uses a bucket of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud_servers import Azurite, GoogleXml, lacks_azurite
from tests.servers import RadosGw, Rclone

# sshd and nft live where a user's PATH often does not go.
os.environ["PATH"] += ":/usr/sbin:/sbin"
# Where it is set, each command that a test starts would compile all its libraries anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGw]:
    with RadosGw(tmp_path_factory.mktemp("radosgw")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    with Rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    if lacks_azurite():
        assert not os.environ.get("CI"), lacks_azurite()
        pytest.skip(lacks_azurite())
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleXml]:
    with GoogleXml(tmp_path_factory.mktemp("google")) as server:
        yield server


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parent.parent
