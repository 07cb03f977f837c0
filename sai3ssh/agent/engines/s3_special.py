"""Requests of the native S3 engine that are more than a method and a key: server-side copies and deletes of many objects."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import md5, sha256
from html import escape, unescape
from typing import TYPE_CHECKING, Dict, Optional

from sai3ssh.agent.engines.base import Task
from sai3ssh.agent.engines.s3_errors import Refusal, refusal_in_success
from sai3ssh.agent.engines.sigv4 import EMPTY_SHA256, UNSIGNED, Credentials, encode_path
from sai3ssh.agent.engines.tasks import CopyTask, DeleteBatch
from sai3ssh.agent.engines.upload import Text
from sai3ssh.model import http_error_class

if TYPE_CHECKING:
    from sai3ssh.agent.engines.connection import Connection
    from sai3ssh.agent.engines.endpoint import S3Root

MAX_RESULT = 8 * 1024 * 1024
"""An answer about 1,000 keys of 1,024 bytes, escaped, with an error each, is well below."""

_STATUS_OF_CODE = {
    "AccessDenied": 403, "InternalError": 500, "MethodNotAllowed": 405, "NoSuchBucket": 404, "NoSuchKey": 404, "OperationAborted": 409,
    "RequestTimeout": 503, "ServiceUnavailable": 503, "SlowDown": 503,
}  # fmt: skip
"""What a code stands for where it comes without a status."""

_ENTRY = re.compile(rb"<(Deleted|Error)>(.*?)</\1>", re.DOTALL)


def start_special(connection: Connection, task: Task, now: int, sign_payload: bool) -> None:
    """Sends a CopyTask or a DeleteBatch."""
    root: S3Root = task.root
    signer = connection.endpoint.signer
    if isinstance(task, CopyTask):
        source: S3Root = task.source.root
        headers = {"x-amz-copy-source": f"/{source.bucket}/{encode_path(source.prefix + task.source.key)}"}
        payload = EMPTY_SHA256 if sign_payload else UNSIGNED
        head = signer.head_with(headers, "PUT", root.path + encode_path(task.key), "", now, 0, payload)
        connection.start(task, head, 0, MAX_RESULT, None, now)
        return
    assert isinstance(task, DeleteBatch)
    keys = "".join(f"<Object><Key>{escape(root.prefix + one.key, quote=False)}</Key></Object>" for one in task.tasks)
    body = f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{keys}</Delete>'.encode()
    task.content = Text(body)
    task.refused.clear()
    # AWS wants a digest of this body, and every server knows this one. It is no matter of security.
    headers = {"content-md5": b64encode(md5(body, usedforsecurity=False).digest()).decode()}
    payload = sha256(body).hexdigest() if sign_payload else UNSIGNED
    head = signer.head_with(headers, "POST", root.bucket_path, "delete=", now, len(body), payload)
    connection.start(task, head, len(body), MAX_RESULT, None, now)


def special_problem(connection: Connection, task: Task, credentials: Credentials) -> Optional[Refusal]:
    """What is wrong with a whole response that says 200, as a server may before it fails.

    What of a batch it would not remove is noted there.
    """
    body = connection.body
    if isinstance(task, CopyTask):
        return None if b"<CopyObjectResult" in body else refusal_in_success(body, credentials)
    assert isinstance(task, DeleteBatch)
    if connection.received > len(body):
        return Refusal("protocol", f"an answer of more than {MAX_RESULT} bytes to a delete of {len(task.tasks)} objects")
    if b"<DeleteResult" not in body or not body.rstrip().endswith((b"</DeleteResult>", b"/>")):
        return refusal_in_success(body, credentials)
    found: Dict[str, Optional[Refusal]] = {}
    for kind, entry in _ENTRY.findall(bytes(body)):
        text = entry.decode("utf-8", "replace")
        found[_text(text, "Key")] = _refused(text) if kind == b"Error" else None
    prefix = task.root.prefix
    silence = Refusal("protocol", "the answer to a delete of several objects does not name this one")
    for one in task.tasks:
        refused = found.get(prefix + one.key, silence)
        if refused is not None:
            task.refused[one] = refused.error_class, refused.detail
    return None


def _refused(entry: str) -> Refusal:
    code = _text(entry, "Code")
    status = _STATUS_OF_CODE.get(code)
    return Refusal(http_error_class(status) if status else "other", f"{code[:100]}: {_text(entry, 'Message')[:200]}")


def _text(entry: str, tag: str) -> str:
    found = re.search(rf"<{tag}>([^<]*)</{tag}>", entry)
    return unescape(found.group(1)) if found else ""
