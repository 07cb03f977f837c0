"""Where an agent finds credentials of its own when the controller sent none: environment, profile, instance role."""

from __future__ import annotations

import configparser
import http.client
import json
import os
import urllib.request
from pathlib import Path
from typing import Dict, Mapping, Optional

from sai3ssh.agent.engines.sigv4 import Credentials
from sai3ssh.errors import TargetError

_METADATA = "http://169.254.169.254"
_METADATA_TIMEOUT_S = 1.0
_ROLES = "/latest/meta-data/iam/security-credentials/"


def find_credentials(
    given: Optional[Mapping[str, Optional[str]]], environ: Optional[Mapping[str, str]] = None, metadata_url: str = _METADATA
) -> Credentials:
    """The credentials given, else the host's own; raises TargetError when there are none.

    `given` has access_key, secret_key and session_token. The instance role is asked for with IMDSv2 and 1 s of patience.
    """
    if given is not None:
        return _credentials(given.get("access_key"), given.get("secret_key"), given.get("session_token"), "the credentials of the run")
    env = os.environ if environ is None else environ
    if env.get("AWS_ACCESS_KEY_ID"):
        return _credentials(env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY"), env.get("AWS_SESSION_TOKEN"), "the environment")
    found = _from_profile(env)
    if found is None and env.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        found = _from_instance_role(metadata_url)
    if found is None:
        raise TargetError(
            "no credentials for the storage: none with the run, in the environment or in ~/.aws/credentials, and no instance role",
            remedy="Give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to the run, or set up one of the others on the host",
        )
    return found


def _credentials(access_key: Optional[str], secret_key: Optional[str], token: Optional[str], source: str) -> Credentials:
    if not access_key or not secret_key:
        missing = "secret key" if access_key else "access key"
        raise TargetError(f"{source}: no {missing}", remedy="Give both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if any(ord(c) < 33 or ord(c) > 126 for c in access_key + (token or "")):
        raise TargetError(f"{source}: access key or session token with a blank or a control character", remedy="Copy the keys again")
    return Credentials(access_key, secret_key, token or None)


def _from_profile(env: Mapping[str, str]) -> Optional[Credentials]:
    path = Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or Path(env.get("HOME") or "/") / ".aws" / "credentials")
    profile = env.get("AWS_PROFILE") or "default"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise TargetError(f"{path} is not a credentials file: {type(error).__name__}", remedy="Correct the file") from None
    if not parser.has_section(profile) or not parser.has_option(profile, "aws_access_key_id"):
        return None
    values: Dict[str, str] = dict(parser.items(profile))
    return _credentials(values.get("aws_access_key_id"), values.get("aws_secret_access_key"), values.get("aws_session_token"), str(path))


def _from_instance_role(url: str) -> Optional[Credentials]:
    # Not through a proxy: the address is of this host's link only.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(method: str, path: str, headers: Dict[str, str]) -> str:
        request = urllib.request.Request(url + path, method=method, headers=headers)  # noqa: S310
        with opener.open(request, timeout=_METADATA_TIMEOUT_S) as response:
            return str(response.read(65536).decode("utf-8"))

    try:
        token = {"X-aws-ec2-metadata-token": ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}).strip()}
        role = ask("GET", _ROLES, token).split("\n")[0].strip()
        answer = json.loads(ask("GET", _ROLES + role, token)) if role else {}
        return _credentials(answer.get("AccessKeyId"), answer.get("SecretAccessKey"), answer.get("Token"), "the instance role")
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        return None
