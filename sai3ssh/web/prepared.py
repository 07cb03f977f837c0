"""Bodies that are made once and sent to many."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from ..protocol import Json

GZIP_FROM_BYTES = 2048


@dataclass(frozen=True)
class Prepared:
    """A body that is sent to whoever does not have it yet."""

    body: bytes
    packed: bytes | None
    etag: str
    content_type: str

    def answer(self, request: Request) -> Response:
        """The body, or that it has not changed."""
        headers = {"ETag": self.etag, "Vary": "Accept-Encoding"}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        if self.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=self.content_type)
        return Response(self.body, headers=headers, media_type=self.content_type)


def prepare(body: bytes, content_type: str) -> Prepared:
    """A body as it is sent; the same body has the same etag."""
    packed = gzip.compress(body, 5, mtime=0) if len(body) >= GZIP_FROM_BYTES else None
    return Prepared(body, packed, f'"{hashlib.sha256(body).hexdigest()[:24]}"', content_type)


def prepare_json(content: Json) -> Prepared:
    """JSON as it is sent."""
    return prepare(json.dumps(content, separators=(",", ":")).encode(), "application/json")
