"""One lab and one storage server for all tests on real hosts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import STORAGE, STORAGE_ADDRESS, Lab
from tests.lab.operator import Operator
from tests.servers import RadosGw


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def storage(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGw]:
    with RadosGw(tmp_path_factory.mktemp("storage"), STORAGE_ADDRESS, netns=STORAGE) as server:
        yield server


@pytest.fixture
def operator(lab: Lab, storage: RadosGw, tmp_path: Path) -> Operator:
    return Operator(lab, storage, tmp_path, Path(sys.executable).parent / "sai3ssh")
