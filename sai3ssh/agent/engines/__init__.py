"""Load engines: what performs operations on storage. base.py is the contract, make_engine the way in."""

from __future__ import annotations

import random
import sys
from typing import Any, Mapping, Optional

from sai3ssh.agent.engines.base import Engine
from sai3ssh.agent.engines.credentials import find_credentials
from sai3ssh.agent.engines.file import FileEngine
from sai3ssh.agent.engines.file_spread import FileSpreadEngine
from sai3ssh.agent.engines.null import NullEngine
from sai3ssh.agent.engines.s3 import S3Engine
from sai3ssh.agent.engines.s3_bodies import S3BodiesEngine, S3BodiesPartsEngine
from sai3ssh.agent.engines.s3_parts import S3PartsEngine
from sai3ssh.agent.engines.s3_spread import S3SpreadEngine, S3SpreadPartsEngine
from sai3ssh.agent.engines.sigv4 import ANONYMOUS, Credentials
from sai3ssh.errors import TargetError
from sai3ssh.model import Deadlines, Retry, Spread, Target


def obstore_module() -> Any:
    """The engine of az:// and gs:// targets; raises TargetError where the library that it needs is missing."""
    try:
        from sai3ssh.agent.engines import obstore_engine
    except ImportError as error:
        raise TargetError(
            f"az:// and gs:// targets need the library obstore, and {sys.executable} has none ({error})",
            remedy="Set sai3ssh_agent_extras: [obstore] in the inventory and run `sai3ssh deploy`; or set sai3ssh_python to a Python "
            "that has it (`python3 -m pip install obstore` in a venv)",
        ) from None
    return obstore_engine


def make_engine(
    target: Target,
    target_uri: str,
    credentials: Optional[Mapping[str, Optional[str]]],
    deadlines: Deadlines,
    retry: Retry,
    rng: Optional[random.Random] = None,
    spread: Optional[Spread] = None,
    offset: int = 0,
) -> Engine:
    """The engine that the target names, with target_uri prepared already; raises TargetError when it cannot be used as it is written.

    `credentials` has access_key, secret_key and session_token, or for obstore what find_cloud_credentials takes; None means the host's
    own. Nobody's are looked for when the target is anonymous. `rng` is for the jitter of retries; `spread` and `offset` say how operations
    are spread where the target has several endpoints: without them in turn over all.
    """
    engine: Engine
    keys = ANONYMOUS if target.anonymous or target.engine in ("file", "obstore", "null") else find_credentials(credentials)
    if target.endpoints:
        engine = _make_spread(target, keys, deadlines, retry, rng, spread or Spread(tuple(range(len(target.endpoints)))), offset)
    elif target.engine == "file":
        engine = FileEngine(retry, rng, target.verify_reads, fsync=target.fsync, page_cache=target.page_cache)
    elif target.engine == "s3":
        parts = target.ranges is not None or target.multipart is not None
        if target.checksum or target.expect_continue is not None:
            engine = (S3BodiesPartsEngine if parts else S3BodiesEngine)(target, keys, deadlines, retry, rng)
        else:
            engine = (S3PartsEngine if parts else S3Engine)(target, keys, deadlines, retry, rng)
    elif target.engine == "null":
        engine = NullEngine(target, deadlines, retry, rng)
    elif target.engine == "boto3":
        # Imported here, not above: the zipapp must start on hosts that have no boto3.
        from sai3ssh.agent.engines.boto3_engine import Boto3Engine

        engine = Boto3Engine(target, keys, deadlines, retry, rng)
    elif target.engine == "obstore":
        engine = obstore_module().ObstoreEngine(target, credentials, deadlines, retry, rng)
    else:
        raise TargetError(f"engine {target.engine!r} (s3, file, boto3, obstore or null)", remedy="Correct the target's engine")
    engine.root(target_uri)
    return engine


def _make_spread(
    target: Target, keys: Credentials, deadlines: Deadlines, retry: Retry, rng: Optional[random.Random], spread: Spread, offset: int
) -> Engine:
    if target.engine == "file":
        return FileSpreadEngine(target, retry, rng, spread, offset)
    if target.engine == "s3":
        kind = S3SpreadPartsEngine if target.ranges or target.multipart else S3SpreadEngine
        return kind(target, keys, deadlines, retry, rng, spread=spread, offset=offset)
    raise TargetError(f"engine {target.engine!r} has one endpoint", remedy="Remove multi_endpoint, or use the native engine")
