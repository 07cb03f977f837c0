"""The root file system that all hosts of the lab share. `python -m tests.lab.image` builds it once; a fresh clone finds it in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = "openssh-server,python3,iproute2,iputils-ping,procps,ca-certificates,systemd-sysv,dbus,libpam-systemd,sudo,systemd-timesyncd"
SUITE = "bookworm"
VERSION = "2"
"""Goes into the cache's name; to be raised when PACKAGES change."""


def path() -> Path:
    """Where the image is, or will be."""
    cache = Path(os.environ.get("SAI3SSH_LAB_CACHE", Path.home() / ".cache" / "sai3ssh-lab"))
    return cache / f"{SUITE}-{VERSION}"


def build() -> Path:
    """Builds the image unless it is there; about a minute."""
    image = path()
    if image.exists():
        return image
    temporary = image.with_name(f"{image.name}.{os.getpid()}")
    image.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(temporary)], check=True, stdout=sys.stderr)
        temporary.rename(image)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return image


if __name__ == "__main__":
    print(build())
