"""Load engines: what performs operations on storage. base.py is the contract, make_engine the way in."""

from __future__ import annotations

import random
from typing import Mapping, Optional

from sai3ssh.agent.engines.base import Engine
from sai3ssh.agent.engines.credentials import find_credentials
from sai3ssh.agent.engines.file import FileEngine
from sai3ssh.agent.engines.null import NullEngine
from sai3ssh.agent.engines.s3 import S3Engine
from sai3ssh.agent.engines.s3_parts import S3PartsEngine
from sai3ssh.agent.engines.sigv4 import ANONYMOUS
from sai3ssh.errors import TargetError
from sai3ssh.model import Deadlines, Retry, Target


def make_engine(
    target: Target,
    target_uri: str,
    credentials: Optional[Mapping[str, Optional[str]]],
    deadlines: Deadlines,
    retry: Retry,
    rng: Optional[random.Random] = None,
) -> Engine:
    """The engine that the target names, with target_uri prepared already; raises TargetError when it cannot be used as it is written.

    `credentials` has access_key, secret_key and session_token; None means the host's own. Nobody's are looked for when the target is
    anonymous. `rng` is for the jitter of retries.
    """
    engine: Engine
    keys = ANONYMOUS if target.anonymous or target.engine in ("file", "null") else find_credentials(credentials)
    if target.engine == "file":
        engine = FileEngine(retry, rng, target.verify_reads)
    elif target.engine == "s3":
        engine = (S3PartsEngine if target.ranges or target.multipart else S3Engine)(target, keys, deadlines, retry, rng)
    elif target.engine == "null":
        engine = NullEngine(target, deadlines, retry, rng)
    elif target.engine == "boto3":
        # Imported here, not above: the zipapp must start on hosts that have no boto3.
        from sai3ssh.agent.engines.boto3_engine import Boto3Engine

        engine = Boto3Engine(target, keys, deadlines, retry, rng)
    else:
        raise TargetError(f"engine {target.engine!r} (s3, file, boto3 or null)", remedy="Correct the target's engine")
    engine.root(target_uri)
    return engine
