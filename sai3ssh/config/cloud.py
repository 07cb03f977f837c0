"""What a workload file says of az:// and gs:// targets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..model import MIB, Multipart, OperationSpec, Population, Stage, StageKind, Target
from .document import Problems
from .endpoints import check_url
from .schema import Azure, Gcs, WorkloadKeys

SECTION = {"az": "azure", "gs": "gcs", "gcs": "gcs"}
"""Scheme of a target to the section of the file that is about it."""
MOST_IN_ONE_PUT = {"az": 5000 * MIB}

_NAMES = {
    "az": (re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}"), "a container (3 to 63 lower-case letters, digits and single '-')"),
    "gs": (re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"), "a bucket (3 to 63 lower-case letters, digits, '.', '_' and '-')"),
}


def check_cloud_uri(scheme: str, rest: str) -> str | None:
    """What is wrong with what follows the :// of a target, or None."""
    name, _, prefix = rest.partition("/")
    pattern, what = _NAMES["az" if scheme == "az" else "gs"]
    if not pattern.fullmatch(name):
        return f"{name!r} cannot be the name of {what}"
    parts = prefix.partition("*")[0].split("/")
    if "" in parts[:-1] or {".", ".."} & set(parts):
        return f"{scheme}:// has no names with an empty part, '.' or '..', found {prefix!r}"
    return None


def check_sections(keys: WorkloadKeys, schemes: Sequence[str], problems: Problems) -> None:
    """Sections about another kind of target have no meaning."""
    for section in ("azure", "gcs"):
        if section in keys.model_fields_set and len(schemes) == 1 and SECTION.get(schemes[0]) != section:
            problems.add((section,), f"{section} has no meaning for {schemes[0]}:// targets; remove it")


def cloud_target(keys: WorkloadKeys, scheme: str, problems: Problems) -> Target:
    """How the storage is reached."""
    name = SECTION[scheme]
    section: Azure | Gcs = keys.azure if name == "azure" else keys.gcs
    if "s3" in keys.model_fields_set:
        problems.add(("s3",), f"s3 has no meaning for {scheme}:// targets; write {name}:")
    if keys.engine != "native":
        problems.add(("engine",), f"engine: {keys.engine} needs s3:// targets; {scheme}:// has one engine, obstore: remove it")
    if keys.range_engine.enabled:
        text = f"range_engine needs s3:// targets: an object of {scheme}:// is read with one GET; set enabled: false"
        problems.add(("range_engine",), text)
    for where, op in enumerate(keys.workload):
        if op.op in ("copy", "mkdir", "rmdir"):
            problems.add(("workload", where, "op"), f"{op.op} has no meaning for {scheme}:// targets; remove it")
        if op.delimiter is not None:
            problems.add(("workload", where, "delimiter"), f"delimiter has no meaning for {scheme}:// targets; remove it")
    for key, usual in (("fsync", "none"), ("page_cache_mode", "auto")):
        if getattr(keys, key) != usual:
            problems.add((key,), f"{key} has no meaning for {scheme}:// targets: it is about files; remove it")
    url = section.endpoint_url
    wrong = check_url(url) if url is not None else None
    if wrong:
        problems.add((name, "endpoint_url"), wrong)
    multipart = None
    if section.multipart_threshold is not None:
        multipart = Multipart(section.multipart_threshold, section.multipart_chunksize, section.multipart_concurrency)
    else:
        for key in sorted({"multipart_chunksize", "multipart_concurrency"} & section.model_fields_set):
            text = f"{name}.{key} has no effect without {name}.multipart_threshold: the size from which on it counts"
            problems.add((name, key), text)
    account = section.account if isinstance(section, Azure) else None
    return Target("obstore", url, verify_reads=keys.verify_reads, multipart=multipart, account=account)


def check_sizes(
    target: Target, populations: Sequence[Population], mix: Sequence[OperationSpec], stages: Sequence[Stage], problems: Problems
) -> None:
    """No object may be larger than what one request can put, unless it is put in parts."""
    made = {name for stage in stages if stage.kind is StageKind.PREPARE for name in stage.populations}
    puts = [(p.target, p.size.max) for p in populations if p.name in made] + [(op.target, op.size.max) for op in mix if op.size is not None]
    for uri, largest in puts:
        most = MOST_IN_ONE_PUT.get(uri.partition("://")[0], largest)
        if largest > most and (target.multipart is None or target.multipart.threshold_bytes > most):
            text = f"objects of {largest} bytes at {uri} are more than one request can put ({most}); set azure.multipart_threshold"
            problems.add(("target",), text)
            return
