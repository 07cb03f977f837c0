"""Credentials of the operator, for the agents. They never leave memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from ..model import Plan
from .endpoints import implied_target
from .workload import Workload

Credentials = dict[str, str | None]


class Secret(Credentials):
    """What the agents' find_credentials or find_cloud_credentials take; does not show itself in logs."""

    def __repr__(self) -> str:
        return "Secret(...)"


def find(workload: Workload, environ: Mapping[str, str]) -> Secret | None:
    """The named file's or profile's credentials, else those of the environment, else the default profile's; None: the agents use their own,
    or none.

    Raises ConfigError when a named source has none.
    """
    keys = workload.keys
    place = keys.target or implied_target(keys) or ""
    paths = " ".join([place, *(op.path for op in keys.workload), *(e.base_uri for e in keys.prepare.ensure_objects)])
    if "az://" in paths:
        return _of_azure(environ, keys.azure.account)
    if "gs://" in paths or "gcs://" in paths:
        return _of_google(environ)
    if "s3://" not in paths or keys.s3.anonymous:
        return None
    where = workload.document.where(("s3", "credentials_file" if keys.s3.credentials_file else "profile"))
    if keys.s3.credentials_file or keys.s3.profile:
        found = _from_profile(keys.s3.profile, keys.s3.credentials_file)
        if found is None:
            source = f"file {keys.s3.credentials_file}" if keys.s3.credentials_file else "the AWS configuration"
            raise ConfigError(
                f"no credentials of profile {keys.s3.profile or 'default'!r} in {source}",
                file=workload.file,
                line=where[0],
                column=where[1],
                remedy="Write them there as aws_access_key_id and aws_secret_access_key, or name another profile",
            )
        return found
    return of_environment(environ)


def of_plan(plan: Plan, environ: Mapping[str, str]) -> Secret | None:
    """The credentials for a run of which there is no more than its plan."""
    if plan.target.engine != "obstore":
        return of_environment(environ)
    targets = [p.target for p in plan.populations] + [op.target for stage in plan.stages for op in stage.operations]
    targets += [stage.replay.target for stage in plan.stages if stage.replay is not None]
    return _of_azure(environ, plan.target.account) if any(uri.startswith("az://") for uri in targets) else _of_google(environ)


def of_environment(environ: Mapping[str, str]) -> Secret | None:
    """The credentials of the environment, else the default profile's."""
    if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        return Secret(
            access_key=environ["AWS_ACCESS_KEY_ID"],
            secret_key=environ["AWS_SECRET_ACCESS_KEY"],
            session_token=environ.get("AWS_SESSION_TOKEN"),
        )
    return _from_profile(environ.get("AWS_PROFILE"), None)


def _from_profile(profile: str | None, credentials_file: str | None) -> Secret | None:
    import botocore.exceptions
    import botocore.session

    session = botocore.session.Session(profile=profile)
    if credentials_file:
        session.set_config_variable("credentials_file", credentials_file)
    try:
        # Only what is written down for the operator: an instance role belongs to this machine, not to the agents.
        resolver = session.get_component("credential_provider")
        for name in ("env", "assume-role", "container-role", "iam-role"):
            try:
                resolver.remove(name)
            except ValueError:
                continue
        found = session.get_credentials()
    except botocore.exceptions.BotoCoreError:
        return None
    if found is None:
        return None
    frozen = found.get_frozen_credentials()
    return Secret(access_key=frozen.access_key, secret_key=frozen.secret_key, session_token=frozen.token)


def _of_azure(environ: Mapping[str, str], account: str | None) -> Secret | None:
    key, token = environ.get("AZURE_STORAGE_KEY"), environ.get("AZURE_STORAGE_SAS_TOKEN")
    if not key and not token:
        return None
    account = account or environ.get("AZURE_STORAGE_ACCOUNT")
    if not account:
        name = "AZURE_STORAGE_KEY" if key else "AZURE_STORAGE_SAS_TOKEN"
        raise ConfigError(f"{name} is set, but no storage account", remedy="Set azure.account in the file, or AZURE_STORAGE_ACCOUNT")
    return Secret(account=account, account_key=key or None, sas_token=None if key else token)


def _of_google(environ: Mapping[str, str]) -> Secret | None:
    """A token goes first: who has set one means it. Of a key file the contents: the agents have no such file."""
    if environ.get("GOOGLE_BEARER_TOKEN"):
        return Secret(bearer_token=environ["GOOGLE_BEARER_TOKEN"])
    path = environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not path:
        return None
    remedy = "Name the JSON file of a service account's key, or set GOOGLE_BEARER_TOKEN (`gcloud auth print-access-token`)"
    wrong = ConfigError(f"GOOGLE_APPLICATION_CREDENTIALS: {path} is not the key of a service account", remedy=remedy)
    try:
        text = Path(path).read_text(encoding="utf-8")
        key = json.loads(text)
    except OSError as error:
        raise ConfigError(f"GOOGLE_APPLICATION_CREDENTIALS: {path}: {error.strerror}", remedy=remedy) from None
    except ValueError:
        raise wrong from None
    if not isinstance(key, dict) or key.get("type") != "service_account":
        raise wrong
    return Secret(service_account=text)
