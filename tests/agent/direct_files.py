"""Where O_DIRECT can be tested."""

import os
import shutil
import tempfile
import unittest


def direct_directory(case):
    """A new directory whose file system has O_DIRECT; where there is none the test is skipped, but not in CI."""
    for place in (tempfile.gettempdir(), "/var/tmp", os.getcwd()):
        directory = tempfile.mkdtemp(dir=place)
        try:
            fd = os.open(f"{directory}/probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        except OSError:
            shutil.rmtree(directory)
            continue
        os.close(fd)
        os.unlink(f"{directory}/probe")
        return directory
    if os.environ.get("CI"):
        case.fail("no file system here has O_DIRECT: give one as TMPDIR")
    raise unittest.SkipTest("no file system here has O_DIRECT")
