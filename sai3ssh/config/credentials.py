"""Credentials of the operator, for the agents. They never leave memory."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from .endpoints import implied_target
from .workload import Workload

Credentials = dict[str, str | None]


class Secret(Credentials):
    """access_key, secret_key and session_token; does not show itself in logs."""

    def __repr__(self) -> str:
        return "Secret(...)"


def find(workload: Workload, environ: Mapping[str, str]) -> Secret | None:
    """The named file's or profile's credentials, else those of the environment, else the default profile's; None: the agents use their own,
    or none.

    Raises ConfigError when a named source has none.
    """
    keys = workload.keys
    if "s3://" not in " ".join(
        [keys.target or implied_target(keys) or "", *(op.path for op in keys.workload), *(e.base_uri for e in keys.prepare.ensure_objects)]
    ):
        return None
    if keys.s3.anonymous:
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
