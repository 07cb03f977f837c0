"""multi_endpoint: several addresses of the same storage, for all agents or for each its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..model import Spread
from .document import Path_, Problems
from .schema import MultiEndpoint, WorkloadKeys

_S3 = re.compile(r"s3://(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:\s\[\]@]+):(?P<port>\d{1,5})(?:/(?P<path>.*))?")


def implied_target(keys: WorkloadKeys) -> str | None:
    """What relative paths are below when there is no target: the first endpoint, where that names a place and not only a server."""
    if keys.multi_endpoint is None:
        return None
    first = keys.multi_endpoint.endpoints[0]
    found = _S3.fullmatch(first)
    if found is None:
        return first if first.startswith("file://") else None
    return f"s3://{found['path']}" if found["path"] else None


class Endpoints:
    """All endpoints that a file names, each once, and which of them each agent uses."""

    def __init__(self, keys: WorkloadKeys, scheme: str, uris: Sequence[str], problems: Problems) -> None:
        """`uris` are the plan's, all of `scheme`; what is wrong is added to the problems."""
        self._keys, self._scheme, self._uris, self._problems = keys, scheme, uris, problems
        self.addresses: list[str] = []
        """As in model.Target.endpoints."""
        agents = keys.distributed.agents
        places: list[tuple[Path_, MultiEndpoint | None]] = [(("multi_endpoint",), keys.multi_endpoint)]
        places += [(("distributed", "agents", n, "multi_endpoint"), agent.multi_endpoint) for n, agent in enumerate(agents)]
        found = [self._spread(given, where) if given is not None else None for where, given in places]
        everybody, own = found[0], found[1:]
        self.spreads: tuple[Spread, ...] = tuple(spread for one in own if (spread := one or everybody) is not None)
        """In the order of distributed.agents; without those, one for all."""
        if not agents and everybody is not None:
            self.spreads = (everybody,)
        if any(own) and len(self.spreads) < len(own):
            n = own.index(None)
            text = "some agents have a multi_endpoint and this one has none; give it one, or give one at the top level for all others"
            problems.add(("distributed", "agents", n), text)

    def _spread(self, given: MultiEndpoint, where: Path_) -> Spread:
        positions: list[int] = []
        if self._keys.engine == "boto3":
            text = "multi_endpoint needs the native engine: boto3 sends to one endpoint here; remove it, or remove engine: boto3"
            self._problems.add(where, text)
        elif self._scheme == "s3" and self._keys.s3.endpoint_url is not None:
            text = "s3.endpoint_url and multi_endpoint contradict each other: requests go to the endpoints of the latter; remove one"
            self._problems.add(where, text)
        if self._scheme not in ("s3", "file"):
            self._problems.add(where, f"multi_endpoint has no meaning for {self._scheme or 'such'}:// targets; remove it")
            return Spread((0,), given.strategy)
        for n, text in enumerate(given.endpoints):
            address = self._file(text, (*where, "endpoints", n)) if self._scheme == "file" else self._s3(text, (*where, "endpoints", n))
            if address is None:
                continue
            if address not in self.addresses:
                self.addresses.append(address)
            position = self.addresses.index(address)
            if position in positions:
                self._problems.add((*where, "endpoints", n), f"endpoint {text} is given twice")
            positions.append(position)
        return Spread(tuple(positions), given.strategy)

    def _file(self, text: str, where: Path_) -> str | None:
        if not text.startswith("file:///"):
            self._problems.add(where, f"expected a mount point such as file:///mnt/a/, because the target is one; found {text!r}")
            return None
        return text.rstrip("/") + "/"

    def _s3(self, text: str, where: Path_) -> str | None:
        """The URL. Plain HTTP in s3://host:port, except for port 443."""
        found = _S3.fullmatch(text)
        wrong = check_url(text, "s3://host:port/bucket/prefix/ or http(s)://host:port")
        if wrong is None:
            return text.rstrip("/")
        if found is None or not 0 < int(found["port"]) < 65536:
            self._problems.add(where, wrong)
            return None
        place = f"s3://{found['path']}" if found["path"] else "s3://"
        outside = next((uri for uri in self._uris if not f"{uri.rstrip('/')}/".startswith(place.rstrip("/") + "/")), None)
        if found["path"] and outside is not None:
            self._problems.add(where, f"{outside} is not below {place}, where this endpoint is; all endpoints hold the same objects")
        return f"{'https' if found['port'] == '443' else 'http'}://{found['host']}:{found['port']}"

    def check_combinations(self) -> None:
        """What only one endpoint can do so far."""
        if len(self.addresses) < 2:
            return
        keys = self._keys
        places: list[tuple[Path_, str]] = [
            (("workload", n, "op"), op.op) for n, op in enumerate(keys.workload) if op.op in ("copy", "mkdir", "rmdir")
        ]
        places += [(("workload", n, "delete_batch"), "delete_batch") for n, op in enumerate(keys.workload) if op.delete_batch > 1]
        places += [(("stages", n, "delete_batch"), "delete_batch") for n, stage in enumerate(keys.stages) if stage.delete_batch > 1]
        places += [(("prepare", "delete_batch"), "delete_batch")] if keys.prepare.delete_batch > 1 else []
        places += [(("s3", "checksum"), "s3.checksum")] if keys.s3.checksum != "none" else []
        places += [(("s3", "expect_continue"), "s3.expect_continue")] if keys.s3.expect_continue is not None else []
        for where, what in places:
            self._problems.add(where, f"{what} needs one endpoint; remove it, or name one endpoint in multi_endpoint")

    def check_places(self) -> None:
        """Files: each URI of the plan must be below an endpoint."""
        for uri in self._uris if self._scheme == "file" and self.addresses else ():
            if not any(uri.startswith(base) for base in self.addresses):
                text = f"{uri} is below none of the endpoints {', '.join(self.addresses)}"
                self._problems.add(("multi_endpoint",) if self._keys.multi_endpoint else ("distributed", "agents"), text)
                return


def check_url(text: str, expected: str = "http://host:port or https://host") -> str | None:
    """What is wrong with http(s)://host[:port][/path], or None. What may be a secret is not repeated."""
    shown = re.sub(r"//[^/]*@", "//...@", text.partition("?")[0])
    try:
        parts = urlsplit(text)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of brackets
        well = False
    if not well:
        return f"expected {expected}, found {shown!r}"
    if parts.query or parts.username or parts.password:
        return f"expected {expected} and nothing else, found {shown!r} and more; credentials come from your environment"
    return None
