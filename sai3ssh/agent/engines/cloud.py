"""az:// and gs:// targets without the library that speaks to them: names, endpoints, whose keys are used, what refusals mean."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from sai3ssh.agent.engines.base import Root
from sai3ssh.agent.engines.s3_errors import RETRYABLE, Refusal
from sai3ssh.errors import Sai3sshError, TargetError, Transient
from sai3ssh.model import Target

AZURE, GOOGLE = "az", "gs"
SERVICE = {"az": AZURE, "gs": GOOGLE, "gcs": GOOGLE}
"""Scheme of a URI to service."""
CONTAINER = {AZURE: "container", GOOGLE: "bucket"}
NO_CONTAINER = frozenset(("ContainerNotFound", "ContainerBeingDeleted", "NoSuchBucket"))
"""Error codes that say that there is no such container or bucket."""

_GOOGLE_URL = "https://storage.googleapis.com"
_GIVE = {
    AZURE: "Give AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN to the run",
    GOOGLE: "Give GOOGLE_APPLICATION_CREDENTIALS (the file of a service account's key) or GOOGLE_BEARER_TOKEN to the run",
}


class CloudRoot(Root):
    """A target URI az://container/prefix or gs://bucket/prefix."""

    __slots__ = ("bucket", "prefix", "service", "store")

    def __init__(self, uri: str, service: str, bucket: str, prefix: str) -> None:
        super().__init__(uri)
        self.service = service
        self.bucket = bucket
        self.prefix = prefix
        self.store: object = None
        """The engine's own."""


def parse_root(uri: str) -> CloudRoot:
    """The parts of a target URI; raises TargetError on what is none, and on names that the library would change."""
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme not in SERVICE or not bucket:
        raise TargetError(f"target {uri!r} is not of the form az://container/prefix or gs://bucket/prefix", remedy="Correct the target")
    segments = prefix.split("/")
    if "" in segments[:-1] or {".", ".."} & set(segments):
        raise TargetError(
            f"target {uri!r}: obstore has no names with an empty part, '.' or '..'", remedy="Correct the prefix of the target"
        )
    return CloudRoot(uri, SERVICE[scheme], bucket, prefix)


class CloudCredentials(NamedTuple):
    """What requests are signed with; nothing but perhaps the account: as the host's own identity."""

    account: str = ""
    account_key: str = ""
    sas_token: str = ""
    service_account: str = ""
    """The JSON of a service account's key."""
    bearer_token: str = ""

    def __repr__(self) -> str:
        # The secret must not reach a log by way of a traceback.
        return f"CloudCredentials({self.account})"

    @property
    def own(self) -> bool:
        """Whether it is the host's own identity, which the service of the cloud knows."""
        return not any(self[1:])

    @property
    def secrets(self) -> Tuple[str, ...]:
        """What no message may quote."""
        signature = [part[4:] for part in self.sas_token.lstrip("?").split("&") if part.startswith("sig=")]
        return (*self[1:], *signature)


def find_cloud_credentials(
    service: str, account: Optional[str], given: Optional[Mapping[str, Optional[str]]], environ: Optional[Mapping[str, str]] = None
) -> CloudCredentials:
    """The credentials given, else those of the environment, else the host's own identity. Raises TargetError where none can be used.

    `given` has account, account_key and sas_token, or service_account and bearer_token; `account` of the target goes first.
    """
    env = os.environ if environ is None else environ
    found = {name: str(value) for name, value in (of_environment(service, env) if given is None else given).items() if value}
    found = {name: value for name, value in found.items() if name in CloudCredentials._fields}
    credentials = CloudCredentials(**{**found, **({"account": account} if account else {})})
    if given is not None and credentials.own:
        raise TargetError("the credentials of the run are none for this kind of target", remedy=_GIVE[service])
    if service == AZURE and not credentials.account:
        raise TargetError("no storage account: none in azure.account, nor with the run", remedy=_GIVE[service])
    return credentials


def of_environment(service: str, environ: Mapping[str, str]) -> Mapping[str, str]:
    """What the environment has for a service, as find_cloud_credentials takes it. Raises TargetError for a key file that is none."""
    if service == AZURE:
        return {
            "account": environ.get("AZURE_STORAGE_ACCOUNT") or environ.get("AZURE_STORAGE_ACCOUNT_NAME") or "",
            "account_key": environ.get("AZURE_STORAGE_KEY") or environ.get("AZURE_STORAGE_ACCOUNT_KEY") or "",
            "sas_token": environ.get("AZURE_STORAGE_SAS_TOKEN") or "",
        }
    path = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return {
        "bearer_token": environ.get("GOOGLE_BEARER_TOKEN") or "",
        "service_account": _read_key(path) if path and not environ.get("GOOGLE_BEARER_TOKEN") else "",
    }


def _read_key(path: str) -> str:
    remedy = "Name the JSON file of a service account's key, or give GOOGLE_BEARER_TOKEN (`gcloud auth print-access-token`)"
    try:
        text = Path(path).read_text(encoding="utf-8")
        kind = json.loads(text).get("type")
    except OSError as error:
        raise TargetError(f"GOOGLE_APPLICATION_CREDENTIALS: {path}: {error.strerror}", remedy=remedy) from None
    except (ValueError, AttributeError):
        raise TargetError(f"GOOGLE_APPLICATION_CREDENTIALS: {path} is not a JSON object", remedy=remedy) from None
    if kind != "service_account":
        raise TargetError(f"GOOGLE_APPLICATION_CREDENTIALS: {path} is of type {kind!r}, expected 'service_account'", remedy=remedy)
    return text


def endpoint_of(target: Target, service: str, account: str) -> str:
    """The URL that container names are appended to; raises TargetError for an endpoint_url that is none."""
    url = target.endpoint_url or (f"https://{account}.blob.core.windows.net" if service == AZURE else _GOOGLE_URL)
    parts = urlsplit(url)
    try:
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or parts.query or parts.username
    except ValueError:
        wrong = True
    if wrong:
        raise TargetError(f"endpoint {url!r} is not a URL of the form http(s)://host[:port][/path]", remedy="Correct endpoint_url")
    return url.rstrip("/")


_REMEDIES = {
    "AuthenticationFailed": ("refused the credentials", "Check AZURE_STORAGE_ACCOUNT and its key, or that the SAS token is still valid"),
    "InvalidAuthenticationInfo": (
        "refused the credentials",
        "Check AZURE_STORAGE_ACCOUNT and its key, or that the SAS token is still valid",
    ),
    "AuthorizationPermissionMismatch": ("denied access", "Give the identity the role Storage Blob Data Contributor, or the SAS token rwdl"),
    "AuthorizationFailure": (
        "denied access",
        "Check AZURE_STORAGE_ACCOUNT and its key, the permissions of a SAS token, and the account's firewall",
    ),
    "ContainerNotFound": ("has no such container", "Create the container or correct the target"),
    "NoSuchBucket": ("has no such bucket", "Create the bucket or correct the target"),
    "AuthenticationRequired": (
        "refused the credentials",
        "The bearer token has expired, or the service account is not known: get new ones",
    ),
    "AccessDenied": ("denied access", "Give the service account the role Storage Object Admin on the bucket"),
}


def explain_cloud(found: Refusal, service: str) -> Tuple[str, str]:
    """What a failure to use a target means, and what to do about it."""
    if found.error_class == "dns":
        return found.detail, "Correct the account or endpoint_url, or this host's name resolution"
    if found.error_class == "tls":
        return (
            found.detail,
            "Have this host's certificate store trust the server's CA (SSL_CERT_FILE), and check that the port speaks HTTPS",
        )
    if found.error_class in RETRYABLE:
        return found.detail, "Check that the server is up and reachable from this host"
    code = found.code or {401: "AuthenticationRequired", 403: "AccessDenied"}.get(found.status, "")
    if service == AZURE and code in ("AuthenticationRequired", "AccessDenied"):
        code = "AuthenticationFailed" if found.status == 401 else "AuthorizationFailure"
    known = _REMEDIES.get(code)
    if known is not None:
        return f"the server {known[0]} ({found.detail})", known[1]
    if found.status == 0:
        return found.detail, _GIVE[service]
    if found.status == 404:
        return f"there is no such {CONTAINER[service]} ({found.detail})", f"Create the {CONTAINER[service]} or correct the target"
    return found.detail, "Check that the endpoint is one of this service and correct the target"


def check_error(found: Refusal, root: CloudRoot, endpoint: str) -> Sai3sshError:
    """The error to raise when a check of a target failed: Transient when it may go away by itself, else TargetError with what to do."""
    what, remedy = explain_cloud(found, root.service)
    passing = found.error_class in RETRYABLE and (found.error_class != "dns" or "Temporary failure" in found.detail)
    return (Transient if passing else TargetError)(f"{root.uri} at {endpoint}: {what}", remedy=remedy)
