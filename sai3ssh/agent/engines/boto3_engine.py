"""The reference engine: boto3, in threads. The native engine is checked against it; it is the only module of the agent that needs boto3."""

from __future__ import annotations

import random
from typing import Any, Dict, Optional

import boto3
import botocore.exceptions
from botocore import UNSIGNED
from botocore.config import Config

from sai3ssh.agent.engines.base import DELETE, GET, LIST, PUT, Root, Task
from sai3ssh.agent.engines.content_reader import ContentReader
from sai3ssh.agent.engines.s3_errors import Refusal, check_error
from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.agent.engines.tasks import CopyTask
from sai3ssh.agent.engines.threaded import OperationFailed, ThreadedEngine
from sai3ssh.dataset import PIECE
from sai3ssh.errors import Sai3sshError, TargetError
from sai3ssh.model import Deadlines, Retry, Target, http_error_class

_POOL = 1024

# In this order: some of botocore's exceptions are kinds of others.
_CLASSES = (
    (botocore.exceptions.ConnectTimeoutError, "timeout_connect", False),
    (botocore.exceptions.ReadTimeoutError, "timeout_first_byte", True),
    (botocore.exceptions.SSLError, "tls", False),
    (botocore.exceptions.EndpointConnectionError, "refused", False),
    (botocore.exceptions.ConnectionClosedError, "reset", True),
    (botocore.exceptions.IncompleteReadError, "short_read", True),
    (botocore.exceptions.ResponseStreamingError, "short_read", True),
    (botocore.exceptions.HTTPClientError, "other", True),
)


class Boto3Engine(ThreadedEngine):
    """Performs operations on an S3 server through boto3. Its own retries are off: they could not be counted."""

    def __init__(
        self,
        target: Target,
        credentials: Credentials,
        deadlines: Deadlines,
        retry: Retry,
        rng: Optional[random.Random] = None,
    ) -> None:
        super().__init__(retry, rng, target.verify_reads)
        self._target = target
        self._roots: Dict[str, _Prefix] = {}
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=target.endpoint_url,
            region_name=target.region,
            aws_access_key_id=credentials.access_key or None,
            aws_secret_access_key=credentials.secret_key or None,
            aws_session_token=credentials.session_token,
            verify=(target.ca_file or True) if target.verify_tls else False,
            config=Config(
                retries={"total_max_attempts": 1},
                signature_version=UNSIGNED if target.anonymous else "s3v4",
                s3={"addressing_style": "path" if target.path_style else "virtual", "payload_signing_enabled": target.sign_payload},
                connect_timeout=deadlines.connect_s,
                read_timeout=deadlines.first_byte_s,
                max_pool_connections=_POOL,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def root(self, uri: str) -> Root:
        """The prepared form of s3://bucket/prefix; raises TargetError on another form."""
        if uri not in self._roots:
            scheme, _, rest = uri.partition("://")
            bucket, _, prefix = rest.partition("/")
            if scheme != "s3" or not bucket:
                raise TargetError(f"target {uri!r} is not of the form s3://bucket/prefix", remedy="Correct the target")
            self._roots[uri] = _Prefix(uri, bucket, prefix)
        return self._roots[uri]

    def check(self, write: bool = False) -> None:
        """Returns when every prepared root can be used: its bucket listed and, with `write`, a probe object written and deleted."""
        for root in self._roots.values():
            key = f"{root.prefix}.sai3ssh-probe-{self._rng.getrandbits(64):016x}"
            try:
                self._client.list_objects_v2(Bucket=root.bucket, MaxKeys=1)
                if write:
                    self._client.put_object(Bucket=root.bucket, Key=key, Body=b"")
                    self._client.delete_object(Bucket=root.bucket, Key=key)
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
                raise self._check_error(error, root) from error

    def _check_error(self, error: Exception, root: _Prefix) -> Sai3sshError:
        failure = _failure(error)
        answer = error.response if isinstance(error, botocore.exceptions.ClientError) else {}
        metadata: Any = answer.get("ResponseMetadata", {})
        found = Refusal(
            failure.error_class,
            failure.detail,
            int(metadata.get("HTTPStatusCode", 0)),
            str(answer.get("Error", {}).get("Code", "")),
            str(metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region", "")),
        )
        return check_error(found, root.uri, self._target.endpoint_url or "AWS", self._target.region)

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def perform(self, task: Task) -> int:
        """Makes one attempt; see ThreadedEngine."""
        names = {"Bucket": task.root.bucket, "Key": task.root.prefix + task.key}
        try:
            if task.op == GET:
                return self._get(task, names)
            if task.op == PUT:
                self._client.put_object(**names, Body=_body(task), ContentLength=task.size)
                return task.size
            if task.op == LIST:
                self._list(task)
            elif task.op == DELETE:
                self._client.delete_object(**names)
            elif isinstance(task, CopyTask):
                source = task.source
                self._client.copy_object(**names, CopySource={"Bucket": source.root.bucket, "Key": source.root.prefix + source.key})
                return task.size
            else:
                _expect_size(self._client.head_object(**names)["ContentLength"], task.size)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            raise _failure(error) from error
        return 0

    def _get(self, task: Task, names: Dict[str, str]) -> int:
        content = self.content_of(task)
        answer = self._client.get_object(**names)
        offset = 0
        with answer["Body"] as body:
            _expect_size(answer["ContentLength"], task.size)
            while True:
                data = body.read(PIECE)
                if not data:
                    break
                if content is not None and not content.matches(task.index, max(task.size, offset + len(data)), offset, data):
                    raise OperationFailed("verify", f"the bytes differ from what was written, at or after offset {offset}")
                offset += len(data)
        _expect_size(offset, task.size)
        return offset

    def _list(self, task: Task) -> None:
        # The token stays with the task, so that another attempt goes on where this one failed.
        while True:
            more = {"ContinuationToken": task.state} if task.state else {}
            if task.delimiter:
                more["Delimiter"] = task.delimiter
            answer = self._client.list_objects_v2(Bucket=task.root.bucket, Prefix=task.root.prefix + task.key, EncodingType="url", **more)
            task.listed += len(answer.get("Contents", ())) + len(answer.get("CommonPrefixes", ()))
            if not answer.get("IsTruncated"):
                return
            task.state = answer["NextContinuationToken"]
            self.page(task)


class _Prefix(Root):
    """A bucket and the beginning of keys."""

    __slots__ = ("bucket", "prefix")

    def __init__(self, uri: str, bucket: str, prefix: str) -> None:
        super().__init__(uri)
        self.bucket = bucket
        self.prefix = prefix


def _body(task: Task) -> Any:
    """The body of a put: bytes when it is small, for a file costs boto3 a round trip more."""
    if task.content is None or not task.size:
        return b""
    return task.content.head(task.index, task.size) if task.size <= PIECE else ContentReader(task.content, task.index, task.size)


def _failure(error: Exception) -> OperationFailed:
    """The failure that an exception of botocore means."""
    if isinstance(error, botocore.exceptions.ClientError):
        answer: Any = error.response
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        fault = answer.get("Error", {})
        return OperationFailed(http_error_class(status), f"HTTP {status} {fault.get('Code', '')}: {str(fault.get('Message', ''))[:200]}")
    for kind, error_class, sent in _CLASSES:
        if isinstance(error, kind):
            cause = str(getattr(error, "kwargs", {}).get("error", ""))
            if error_class == "refused" and "resolve" in cause:
                return OperationFailed("dns", cause[:300], sent)
            return OperationFailed(error_class, str(error)[:300], sent)
    return OperationFailed("other", f"{type(error).__name__}: {str(error)[:300]}", sent=False)


def _expect_size(found: int, expected: int) -> None:
    if found != expected >= 0:
        raise OperationFailed("verify", f"the object has {found} bytes, expected {expected}")
