"""Multipart uploads: which request comes next, and what the responses say."""

from __future__ import annotations

import re
from html import escape, unescape
from typing import Collection, Dict, List, Optional, Union

from sai3ssh.agent.engines.base import DELETE, GET, PUT, Task
from sai3ssh.agent.engines.parts import ABORT, COMPLETE, CREATE, SEARCH, UPLOAD_PART, Part, Slice, Transfer
from sai3ssh.agent.engines.response import Failure, header
from sai3ssh.agent.engines.s3_errors import Refusal, refusal_in_success
from sai3ssh.agent.engines.sigv4 import Credentials, encode_query
from sai3ssh.dataset import Content
from sai3ssh.model import MIB, Multipart

MAX_PARTS = 10_000
"""Of an upload; S3 numbers no more."""

_METHODS = {CREATE: "POST", UPLOAD_PART: "PUT", COMPLETE: "POST", ABORT: "DELETE", SEARCH: "GET"}


class Upload(Transfer):
    """A PUT as a multipart upload: create, parts, complete; when it fails, abort.

    A create whose response was lost may have begun an upload that nobody knows the id of: those of the key are looked for, and all but
    our own aborted, before the upload is completed.
    """

    def __init__(self, task: Task, multipart: Multipart) -> None:
        least = -(-task.size // MAX_PARTS)
        part_bytes = multipart.part_bytes if least <= multipart.part_bytes else -(-least // MIB) * MIB
        super().__init__(task, part_bytes, multipart.concurrency)
        self.id = ""
        self._begun = 0
        self._etags: Dict[int, str] = {}
        """By the offset of the part."""
        self._strays: List[str] = []
        self._aborts: Dict[Part, str] = {}
        self._unsure_created = self._unsure_completed = False
        self._completed = False

    @property
    def open(self) -> bool:
        """Whether something may be left on the server."""
        return bool(self.id or self._strays or self._unsure_created)

    def next(self) -> Optional[Part]:
        """The next request that may begin now."""
        if self.failure is None:
            if not self.id:
                return None if self.running else Part(self, CREATE, PUT, 0, query="uploads=")
            if self._offsets and len(self.running) < self._limit:
                return self._part()
        if self.running:
            return None
        if self._unsure_created:
            self._unsure_created = False
            key = self.task.root.prefix + self.task.key
            return Part(self, SEARCH, GET, -1, query=encode_query({"prefix": key, "uploads": ""}))
        if self._strays:
            return self._abort(self._strays.pop())
        if self.failure is not None:
            mine, self.id = self.id, ""
            return self._abort(mine) if mine else None
        return None if self._completed else self._complete()

    def _part(self) -> Part:
        offset, size = self._offsets.popleft()
        self._begun += 1
        assert self.task.content is not None
        query = encode_query({"partNumber": str(self._begun), "uploadId": self.id})
        return Part(self, UPLOAD_PART, PUT, size, offset, Slice(self.task.content, offset), query)

    def _abort(self, upload_id: str) -> Part:
        part = Part(self, ABORT, DELETE, -1, query=encode_query({"uploadId": upload_id}))
        self._aborts[part] = upload_id
        return part

    def _complete(self) -> Part:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag, quote=False)}</ETag></Part>"
            for number, (_, etag) in enumerate(sorted(self._etags.items()), 1)
        )
        text = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{parts}</CompleteMultipartUpload>'.encode()
        return Part(self, COMPLETE, PUT, len(text), content=Text(text), query=encode_query({"uploadId": self.id}))

    def took(self, part: Part, head: bytes, body: bytearray) -> Optional[Failure]:
        """Takes what the next steps need from a good response."""
        if part.kind == CREATE:
            self.id = _text(bytes(body), "UploadId")
            if not self.id:
                self._unsure_created = True
                return Failure("protocol", f"no UploadId in the response to a create: it begins with {bytes(body[:60])!r}")
        elif part.kind == UPLOAD_PART:
            etag = header(head, "etag")
            if not etag:
                return Failure("protocol", "no ETag in the response to a part of an upload")
            self._etags[part.offset] = etag
        elif part.kind == SEARCH:
            key = self.task.root.prefix + self.task.key
            found = [upload.decode("utf-8", "replace") for upload in re.findall(rb"<Upload>(.*?)</Upload>", bytes(body), re.DOTALL)]
            self._strays = [_text(one, "UploadId") for one in found if _text(one, "Key") == key and _text(one, "UploadId") != self.id]
        elif part.kind == COMPLETE:
            self._completed = True
            self.id = ""
        return None

    @property
    def complete(self) -> bool:
        """Whether the object is there."""
        return self._completed

    def lost(self, part: Part, found: Refusal) -> None:
        """Notes that the server may have done what it could not say."""
        if found.status < 400 or found.status >= 500:
            # Of 503, slow down, an upload comes seldom, and it has no parts: not worth a search, which needs a right of its own.
            self._unsure_created = self._unsure_created or (part.kind == CREATE and found.status != 503)
            self._unsure_completed = self._unsure_completed or part.kind == COMPLETE

    def interrupt(self, why: str, under_way: Collection[Part]) -> None:
        """The operation ends here; those requests were cut off, and what is left of it is to be removed."""
        self._unsure_created = self._unsure_created or any(part.kind in (CREATE, SEARCH) for part in under_way)
        self._strays += [self._aborts[part] for part in under_way if part.kind == ABORT]
        self.fail(Refusal("other", why), sent=False)

    def gone(self, part: Part, found: Refusal) -> bool:
        """Whether a refusal says that there is nothing left to do: no such upload, which an earlier attempt explains."""
        if found.status != 404 or found.code not in ("", "NoSuchUpload"):
            return False
        return part.kind == ABORT or (part.kind == COMPLETE and self._unsure_completed)

    def wrong(self, part: Part, body: bytearray, credentials: Credentials) -> Optional[Refusal]:
        """What is wrong with a response that says 200: a complete may still fail after that."""
        if part.kind != COMPLETE or b"<CompleteMultipartUploadResult" in body:
            return None
        return refusal_in_success(body, credentials)


def method_of(part: Part) -> str:
    """The HTTP method of a request of an upload."""
    return _METHODS[part.kind]


class Text(Content):
    """A body that is no object."""

    __slots__ = ("_text",)

    def __init__(self, text: bytes) -> None:
        super().__init__(0, "zero")
        self._text = text

    def head(self, index: int, size: int) -> bytes:  # noqa: ARG002
        """All of it."""
        return self._text

    def piece(self, index: int, size: int, offset: int, length: int) -> bytes:  # noqa: ARG002
        """A part of it."""
        return self._text[offset : offset + length]

    def piece_into(self, buffer: Union[bytearray, memoryview], index: int, size: int, offset: int) -> int:  # noqa: ARG002
        """See Content.piece_into."""
        piece = self._text[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


def _text(body: Union[bytes, str], tag: str) -> str:
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    found = re.search(rf"<{tag}>([^<]*)</{tag}>", text)
    return unescape(found.group(1)) if found else ""
