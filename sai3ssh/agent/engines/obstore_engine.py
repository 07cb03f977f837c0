"""az:// and gs:// targets through the library obstore, in threads. The only module of the agent that needs it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import threading
import time
from datetime import timedelta
from functools import partial
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import obstore
import obstore.exceptions
from obstore.store import AzureStore, GCSStore

from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, Root, Task
from sai3ssh.agent.engines.cloud import (
    AZURE,
    GOOGLE,
    NO_CONTAINER,
    CloudCredentials,
    CloudRoot,
    check_error,
    endpoint_of,
    find_cloud_credentials,
    parse_root,
)
from sai3ssh.agent.engines.content_reader import ContentReader
from sai3ssh.agent.engines.s3_errors import RETRYABLE, Refusal, refusal
from sai3ssh.agent.engines.threaded import OperationFailed, ThreadedEngine
from sai3ssh.dataset import PIECE
from sai3ssh.errors import TargetError
from sai3ssh.model import Deadlines, Multipart, Retry, Target, http_error_class

VERSION = str(obstore.__version__)
PAGE = {AZURE: 5000, GOOGLE: 1000}
"""Keys that a service sends for one LIST request, where it sends as many as asked for. The library does not tell how many it made."""
_CHUNK = 1000
_MAX_PARTS = 10_000
_VARIABLES = ("AZURE_", "GOOGLE_")
_ERRORS = (obstore.exceptions.BaseError, OSError, ValueError)
UNUSABLE = "other"
"""Class of what the library refused before the storage was asked: names, tokens that it did not get."""
_UNSENT = frozenset(("dns", "refused", "tls", "timeout_connect", UNUSABLE))
# There is one environment of the process: while it lacks variables nobody else reads them.
_making = threading.Lock()


class ObstoreEngine(ThreadedEngine):
    """Performs operations on Azure Blob Storage or Google Cloud Storage. The library's own retries are off: they could not be counted.

    Deleting what is not there succeeds, as on S3: a delete whose answer got lost is made again.
    """

    def __init__(
        self,
        target: Target,
        credentials: Optional[Mapping[str, Optional[str]]],
        deadlines: Deadlines,
        retry: Retry,
        rng: Optional[random.Random] = None,
    ) -> None:
        """`credentials` as find_cloud_credentials takes them."""
        super().__init__(retry, rng, target.verify_reads)
        self._target = target
        self._given = credentials
        self._deadlines = deadlines
        self._roots: Dict[str, CloudRoot] = {}
        self._stores: Dict[Tuple[str, str], Any] = {}
        self._secrets: Tuple[str, ...] = ()
        self._endpoint = ""

    def root(self, uri: str) -> Root:
        """The prepared form of az://container/prefix or gs://bucket/prefix; raises TargetError on another, and without credentials."""
        if uri not in self._roots:
            root = parse_root(uri)
            if (root.service, root.bucket) not in self._stores:
                self._stores[root.service, root.bucket] = self._open(root)
            root.store = self._stores[root.service, root.bucket]
            self._roots[uri] = root
        return self._roots[uri]

    def _open(self, root: CloudRoot) -> Any:
        with _making:
            return self._make(root)

    def _make(self, root: CloudRoot) -> Any:
        credentials = find_cloud_credentials(root.service, self._target.account, self._given)
        self._secrets = credentials.secrets
        self._endpoint = endpoint_of(self._target, root.service, credentials.account)
        options: Dict[str, Any] = {
            "allow_http": self._endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=self._deadlines.connect_s),
            "read_timeout": timedelta(seconds=self._deadlines.first_byte_s),
            "timeout": timedelta(seconds=self._deadlines.total_s),
            "user_agent": "sai3ssh",
        }
        make = partial(
            _azure if root.service == AZURE else _google, root.bucket, credentials, self._endpoint, bool(self._target.endpoint_url)
        )
        with _without_variables(not credentials.own):
            try:
                try:
                    return make(options)
                except _ERRORS as error:
                    # Older versions, all that there are for Python 3.9, have no deadline of a silence.
                    if "read_timeout" not in str(error):
                        raise
                    return make({name: value for name, value in options.items() if name != "read_timeout"})
            except _ERRORS as error:
                what = self._refusal(error, 0.0).detail.rstrip(".")
                raise TargetError(f"{root.uri}: obstore does not take these credentials: {what}", remedy="Copy them again") from None

    def check(self, write: bool = False) -> None:
        """Returns when every prepared root can be used: its container listed and, with `write`, a probe object written and deleted."""
        for root in self._roots.values():
            probe = Task(LIST, root, f".sai3ssh-probe-{self._rng.getrandbits(64):016x}", 0, 0, None, 0)
            try:
                self.first_key(root)
                for operation in (PUT, DELETE) if write else ():
                    probe.op = operation
                    self.perform(probe)
            except CloudFailure as failure:
                raise check_error(failure.refusal, root, self._endpoint) from None

    def first_key(self, root: CloudRoot) -> Optional[str]:
        """The name of an object below a root, None where there is none; raises CloudFailure."""
        began = time.monotonic()
        try:
            for found in obstore.list(_store(root), root.prefix.rpartition("/")[0], chunk_size=1):
                return str(found[0]["path"])
        except _ERRORS as error:
            raise self._failure(error, began) from None
        return None

    def look_at(self, root: CloudRoot, name: str, read: bool) -> None:
        """Returns when the object of that whole name may be read, or looked at; its bytes are not fetched. Raises CloudFailure."""
        began = time.monotonic()
        try:
            (obstore.get if read else obstore.head)(_store(root), name)
        except _ERRORS as error:
            raise self._failure(error, began) from None

    def close(self) -> None:
        """The library closes idle connections by itself."""

    def perform(self, task: Task) -> int:
        """Makes one attempt; see ThreadedEngine."""
        store, path = task.root.store, task.root.prefix + task.key
        began = time.monotonic()
        try:
            if task.op == GET:
                return self._get(task, store, path)
            if task.op == PUT:
                return self._put(task, store, path)
            if task.op == LIST:
                self._list(task, store, path)
            elif task.op == DELETE:
                obstore.delete(store, path)
            else:
                _expect_size(obstore.head(store, path)["size"], task.size)
        except _ERRORS as error:
            failure = self._failure(error, began)
            if task.op != DELETE or not failure.missing:
                raise failure from None
        return 0

    def _get(self, task: Task, store: Any, path: str) -> int:
        content = self.content_of(task)
        answer = obstore.get(store, path)
        _expect_size(answer.meta["size"], task.size)
        offset = 0
        for chunk in answer.stream(min_chunk_size=PIECE):
            data = memoryview(chunk)
            if content is not None and not content.matches(task.index, max(task.size, offset + len(data)), offset, data):
                raise OperationFailed("verify", f"the bytes differ from what was written, at or after offset {offset}")
            offset += len(data)
        _expect_size(offset, task.size)
        return offset

    def _put(self, task: Task, store: Any, path: str) -> int:
        parts = self._target.multipart
        if parts is not None and task.size >= parts.threshold_bytes and task.content is not None:
            self._put_parts(task, store, path, parts)
        else:
            obstore.put(store, path, _body(task), use_multipart=False)
        return task.size

    def _put_parts(self, task: Task, store: Any, path: str, parts: Multipart) -> None:
        assert task.content is not None
        reader = ContentReader(task.content, task.index, task.size)
        part_bytes = max(parts.part_bytes, -(-task.size // _MAX_PARTS))
        # The beginning of an upload; Azure has none: its blocks are named by the end.
        begin = 1 if task.root.service == GOOGLE else 0
        sent = -1
        try:
            obstore.put(store, path, reader, use_multipart=True, chunk_size=part_bytes, max_concurrency=parts.concurrency)
            sent = 0
        finally:
            # Of an upload that failed, the parts that the library had read; one request of it is the failure itself.
            for _ in range(max(0, -(-reader.tell() // part_bytes) + begin + sent)):
                self.page(task)

    def _list(self, task: Task, store: Any, prefix: str) -> None:
        task.listed = 0
        seen = 0
        page = PAGE[task.root.service]
        # The library knows only whole parts of names.
        below = prefix.rpartition("/")[0]
        whole = not prefix or prefix.endswith("/")
        for chunk in obstore.list(store, below, chunk_size=_CHUNK):
            if seen and seen % page == 0:
                self.page(task)
            seen += len(chunk)
            task.listed += len(chunk) if whole else sum(1 for found in chunk if found["path"].startswith(prefix))

    def _failure(self, error: Exception, began: float) -> CloudFailure:
        return CloudFailure(self._refusal(error, time.monotonic() - began))

    def _refusal(self, error: Exception, took_s: float) -> Refusal:
        """What an exception of the library means. Its text has URLs, which may have a SAS token in them: none of them is passed on."""
        text, _, debug = str(error).partition("Debug source:")
        answered, of_batch = _STATUS.search(text), _STATUS_OF_BATCH.search(text)
        if answered:
            found = refusal(int(answered.group(1)), b"", text[answered.end() :].strip().encode(), self._secrets)
            found = found._replace(detail=found.detail.partition("RequestId:")[0].strip())
        elif of_batch:
            status = int(of_batch.group(2))
            found = Refusal(http_error_class(status), f"HTTP {status} {self._clean(of_batch.group(1))}", status)
        elif isinstance(error, (ValueError, obstore.exceptions.UnknownConfigurationKeyError)):
            found = Refusal(UNUSABLE, self._clean(text))
        else:
            said = _SAID.findall(debug)
            what = said[-1] if said else text.rpartition(" - ")[2]
            found = Refusal(_class_of(debug or text, took_s >= 0.99 * self._deadlines.total_s), self._clean(what))
        if _TOKEN.search(text):
            error_class = found.error_class if found.error_class in RETRYABLE else UNUSABLE
            return Refusal(error_class, f"no token for the storage: {found.detail}")
        return found

    def _clean(self, text: str) -> str:
        text = re.sub(r"https?://\S+", "the endpoint", " ".join(text.split()))
        for secret in self._secrets:
            if len(secret) >= 8:
                text = text.replace(secret, "[redacted]")
        return "".join(c for c in text[:200] if c.isprintable())


class CloudFailure(OperationFailed):
    """A failure with what the service said."""

    def __init__(self, found: Refusal) -> None:
        # A status without an answer of the storage is of the service that gives tokens.
        token = found.error_class.startswith("http_") and not found.status
        super().__init__(found.error_class, found.detail, not token and found.error_class not in _UNSENT)
        self.refusal = found

    @property
    def missing(self) -> bool:
        """Whether the service said that the object is not there, and not that its container is not."""
        found = self.refusal
        return found.status == 404 and found.code not in NO_CONTAINER and (found.code in _NO_OBJECT or "blob" in found.detail)


_NO_OBJECT = ("BlobNotFound", "NoSuchKey")
_STATUS = re.compile(r"non-2xx status code: (\d{3})[^:]*:")
# Later versions delete from Azure by a batch of one.
_STATUS_OF_BATCH = re.compile(r"([^:]*)\(code: (\d{3})\)")
_TOKEN = re.compile(r"token request|169\.254\.169\.254|metadata\.google|oauth2", re.IGNORECASE)
_SAID = re.compile(r'(?:message|error): "([^"]+)"')
_CLASSES = (
    (r"dns error|lookup address", "dns"),
    (r"[Cc]ertificate|TlsError|InvalidContentType|handshake|rustls", "tls"),
    (r"ConnectionRefused|HostUnreachable|NetworkUnreachable|NetworkDown", "refused"),
    (r"IncompleteBody|UnexpectedEof", "short_read"),
    (r"ConnectionReset|IncompleteMessage|BrokenPipe|ChannelClosed|ConnectionAborted", "reset"),
    (r"Parse\(|Decode|Header missing", "protocol"),
)


def _class_of(debug: str, late: bool) -> str:
    """The error class of a request that has no status; `late`: it took as long as an attempt may take."""
    if re.search(r"kind: Timeout|TimedOut", debug):
        return "timeout_connect" if "Connect" in debug else "timeout_total" if late else "timeout_first_byte"
    return next((error_class for pattern, error_class in _CLASSES if re.search(pattern, debug)), "protocol")


def _azure(container: str, credentials: CloudCredentials, endpoint: str, _: bool, options: Any) -> Any:
    config: Any = {"account_name": credentials.account, "endpoint": endpoint}
    if credentials.account_key:
        config["account_key"] = credentials.account_key
    elif credentials.sas_token:
        config["sas_token"] = credentials.sas_token.lstrip("?")
    return AzureStore(container, config=config, client_options=options, retry_config=_no_retries())


def _google(bucket: str, credentials: CloudCredentials, endpoint: str, elsewhere: bool, options: Any) -> Any:
    config: Any = {}
    token = credentials.bearer_token
    provider: Any = (lambda: {"token": token, "expires_at": None}) if token else None
    if credentials.service_account:
        config["service_account_key"] = json.dumps({**json.loads(credentials.service_account), "gcs_base_url": endpoint})
    elif token or elsewhere:
        # A key of nobody says where the service is: the option for that is not in all versions.
        nobody = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True, "gcs_base_url": endpoint}
        config["service_account_key"] = json.dumps(nobody)
    return GCSStore(bucket, config=config, client_options=options, retry_config=_no_retries(), credential_provider=provider)


def _no_retries() -> Any:
    return {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}


@contextlib.contextmanager
def _without_variables(hidden: bool) -> Iterator[None]:
    """The library would add what the environment has of its own to the credentials that it is given."""
    taken = {name: value for name, value in os.environ.items() if hidden and name.startswith(_VARIABLES)}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def _store(root: CloudRoot) -> Any:
    return root.store


def _body(task: Task) -> bytes:
    """The whole object: what the library is to send in one request it wants in memory."""
    if task.content is None or not task.size:
        return b""
    if task.size <= PIECE:
        return task.content.head(task.index, task.size)
    return b"".join(task.content.piece(task.index, task.size, offset, PIECE) for offset in range(0, task.size, PIECE))


def _expect_size(found: int, expected: int) -> None:
    if found != expected >= 0:
        raise OperationFailed("verify", f"the object has {found} bytes, expected {expected}")
