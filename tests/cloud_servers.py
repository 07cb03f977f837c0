"""Servers for az:// and gs:// targets, and an oracle that shares nothing with the product.

Azurite is Microsoft's own server for tests; it checks signatures. Of Google's XML API, which obstore speaks, no emulator has more than
parts, but it is by design that of S3: rclone's S3 server answers it. What it cannot show are Google's own refusals and tokens.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import os
import re
import secrets
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests.servers import Rclone, Server

AZURITE = Path(sys.executable).parent.parent / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


def lacks_azurite() -> str:
    """Why there is no Azurite here; empty when there is."""
    return "" if AZURITE.exists() and shutil.which("node") else "no Azurite: `make .venv/azurite/ready` installs it where node and npm are"


class Azurite(Server):
    """Azure Blob Storage in memory."""

    scheme = "az"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.account = "acc" + secrets.token_hex(4)
        self.account_key = base64.b64encode(secrets.token_bytes(64)).decode()

    @property
    def url(self) -> str:
        """What container names are appended to."""
        return f"{self.endpoint_url}/{self.account}"

    def credentials(self) -> dict[str, str | None]:
        return {"account": self.account, "account_key": self.account_key}

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        argv = ["node", str(AZURITE), "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", str(self.port)]
        self._spawn(argv, "azurite", AZURITE_ACCOUNTS=f"{self.account}:{self.account_key}")
        self._wait(lambda: "successfully listens" in self.log, "Azurite")

    @property
    def log(self) -> str:
        return (self.directory / "azurite.out").read_text()

    def counts(self, container: str, operation: str) -> int:
        """How many requests of the operation are in the access log."""
        of_objects = {"put": "PUT", "get": "GET", "stat": "HEAD", "delete": "DELETE"}
        # A delete of later versions is a batch of one, which is asked of the container, as a LIST is.
        of_container = {"list": r"GET \S*comp=list", "delete": r"POST \S*comp=batch"}
        lines = re.findall(rf'"(\S+) /{self.account}/{container}(\S*) HTTP', self.log)
        mine = [f"{method} {rest}" for method, rest in lines if (method == of_objects.get(operation)) == rest.startswith("/")]
        return sum(
            line.startswith(of_objects.get(operation, "-")) or bool(re.match(of_container.get(operation, "-"), line)) for line in mine
        )

    def create(self, container: str) -> None:
        self.ask("PUT", container, "restype=container")

    def ask(self, method: str, path: str, query: str = "", body: bytes | None = None) -> bytes:
        """A request signed with the account's key, by the letter of the specification."""
        path = urllib.parse.quote(path)
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        if body is not None:
            headers["x-ms-blob-type"] = "BlockBlob"
        pairs = "".join(f"\n{name}:{value}" for name, _, value in (item.partition("=") for item in query.split("&") if item))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        kind = "application/octet-stream" if body else ""
        length = str(len(body)) if body else ""
        text = f"{method}\n\n\n{length}\n\n{kind}\n\n\n\n\n\n\n{lines}/{self.account}/{self.account}/{path}{pairs}"
        signature = base64.b64encode(hmac.new(base64.b64decode(self.account_key), text.encode(), hashlib.sha256).digest()).decode()
        headers |= {"Authorization": f"SharedKey {self.account}:{signature}", **({"Content-Type": kind} if kind else {})}
        return _ask(method, f"{self.url}/{path}?{query}", body, headers)

    def body(self, container: str, key: str) -> bytes:
        return self.ask("GET", f"{container}/{key}")

    def put(self, container: str, key: str, data: bytes) -> None:
        self.ask("PUT", f"{container}/{key}", body=data)

    def sas_token(self, permissions: str) -> str:
        """A token for the whole account, by the letter of the specification."""
        expiry = "2099-01-01T00:00:00Z"
        text = "\n".join([self.account, permissions, "b", "sco", "", expiry, "", "http,https", "2021-12-02", "", ""])
        signature = base64.b64encode(hmac.new(base64.b64decode(self.account_key), text.encode(), hashlib.sha256).digest()).decode()
        fields = {"sv": "2021-12-02", "ss": "b", "srt": "sco", "sp": permissions, "se": expiry, "spr": "http,https", "sig": signature}
        return urllib.parse.urlencode(fields)


class GoogleXml(Rclone):
    """What is common to the XML APIs of Google Cloud Storage and S3. Asks nobody who they are."""

    scheme = "gs"
    options = ("-vv",)

    @property
    def url(self) -> str:
        """What bucket names are appended to."""
        return self.endpoint_url

    def credentials(self) -> dict[str, str | None]:
        return {"bearer_token": self.secret_key}

    def _pair(self) -> dict[str, str]:
        return {}

    def counts(self, bucket: str, operation: str) -> int:
        """How many requests of the operation are in the log."""
        mark = {
            "put": r"(CREATE OBJECT:|(?:initiate|put|complete) multipart upload)", "get": "GET OBJECT Bucket:", "stat": "HEAD OBJECT",
            "list": "bucketname:", "delete": "DELETE:",
        }[operation]  # fmt: skip
        return len(re.findall(rf"serve s3: {mark} {bucket}\b", (self.directory / "rclone.out").read_text()))

    def create(self, bucket: str) -> None:
        _ask("PUT", f"{self.url}/{bucket}", None, {})

    def body(self, bucket: str, key: str) -> bytes:
        return _ask("GET", f"{self.url}/{bucket}/{urllib.parse.quote(key)}", None, {})

    def put(self, bucket: str, key: str, data: bytes) -> None:
        _ask("PUT", f"{self.url}/{bucket}/{urllib.parse.quote(key)}", data, {"Content-Type": "application/octet-stream"})


def _ask(method: str, url: str, body: bytes | None, headers: dict[str, str]) -> bytes:
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            data: bytes = answer.read()
            return data
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url.partition('?')[0]}: {error.code} {error.read()[:300]!r}") from None


def clean_environment() -> dict[str, str]:
    """This process's variables without those of a cloud."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "GOOGLE_", "AWS_"))}
