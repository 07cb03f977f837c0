"""Pages of ListObjectsV2, searched rather than parsed."""

from __future__ import annotations

from html import unescape
from typing import NamedTuple, Optional, Union

from sai3ssh.agent.engines.response import Failure

MAX_PAGE = 8 * 1024 * 1024
"""A page of 1,000 keys of 1,024 bytes, escaped, is well below."""


class Page(NamedTuple):
    """How many keys a page holds and where the next begins; token None: this is the last."""

    keys: int
    token: Optional[str]


def parse_page(body: Union[bytes, bytearray], previous_token: Optional[str], delimiter: str = "") -> Page:
    """The page in a response body; raises Failure('protocol') on what is not one or would never end.

    With a delimiter common prefixes count as keys.
    """
    if b"<ListBucketResult" not in body or not body.rstrip().endswith(b"</ListBucketResult>"):
        raise Failure("protocol", f"not a ListBucketResult: it begins with {bytes(body[:60])!r}")
    # <Key> occurs once per object: prefixes are in <Prefix>, and text never holds a bare '<'.
    keys = body.count(b"<Key>")
    if delimiter:
        keys += body.count(b"<CommonPrefixes>")
    if _text(body, b"IsTruncated") != "true":
        return Page(keys, None)
    token = _text(body, b"NextContinuationToken")
    if not token or token == previous_token:
        raise Failure("protocol", "a truncated page of a LIST without a new continuation token")
    return Page(keys, token)


def _text(body: Union[bytes, bytearray], tag: bytes) -> str:
    start = body.find(b"<" + tag + b">")
    if start < 0:
        return ""
    start += len(tag) + 2
    return unescape(bytes(body[start : body.find(b"</", start)]).decode("utf-8", "replace"))
