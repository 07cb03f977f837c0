"""The zipapp's compiled code, in a file beside it: a process that finds it there starts in half the time.

The file is the same archive with a .pyc to each module. It is made by the daemon, for its own version of Python, and `__main__` of the
zipapp (bundle.py) uses it only when owner and time of modification are those of the zipapp.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import marshal
import os
import sys
import zipfile

_UNCHECKED = (0b01).to_bytes(4, "little")
"""Flags of a .pyc that is used without a look at its source (PEP 552): the time of the whole archive is looked at."""


def beside(archive: str) -> str:
    """Where the compiled code of a zipapp is."""
    return f"{archive}.{sys.implementation.cache_tag}"


def ensure(archive: str) -> bool:
    """Whether the zipapp has compiled code now. Only its owner makes it; a directory that takes none is no error."""
    path = beside(archive)
    source = os.stat(archive)
    with contextlib.suppress(OSError):
        if os.stat(path).st_mtime_ns == source.st_mtime_ns:
            return True
    if source.st_uid != os.getuid() or not os.access(os.path.dirname(path) or ".", os.W_OK):
        return False
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(_compile(archive))
            file.flush()
            os.fsync(file.fileno())
        os.utime(temporary, ns=(source.st_mtime_ns, source.st_mtime_ns))
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        return False
    return True


def _compile(archive: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            text = source.read(name)
            code = compile(text, os.path.join(archive, name), "exec", dont_inherit=True)
            header = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(text)
            target.writestr(name, text)  # another build of the same Python, with another magic number, and tracebacks read it
            target.writestr(name + "c", header + marshal.dumps(code))
    return buffer.getvalue()
