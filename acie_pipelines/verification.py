"""Walks provenance from a result back to the observation's bytes, without any service.

Belongs here: where the walk starts. Does not belong here: the walk itself (`provenance`).
"""

from collections.abc import Callable

from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import (
    InputRef,
    Manifest,
    current_manifest,
    read_manifest,
    verify_chain,
)
from acie_pipelines.secure.attestation import ATTESTED_KINDS
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store

__all__ = ["verify_everything", "verify_model", "verify_observation"]

Report = Callable[[Manifest], None]

_DERIVED_KINDS = ("tiles", "mosaic", "ciphertexts", "encrypted_statistics", "archive")
# One dataset for each plane of an observation.
_PLANE_KINDS = ("encrypted_windows", "encrypted_features", "encrypted_difference")
# Made from several observations, under keys of their own.
_JOINT_KINDS = ("encrypted_coadd",)


def verify_observation(
    store: Store, key: str, report: Report, *, newest: Report | None = None
) -> int:
    """Verify everything made from one observation.

    Parameters
    ----------
    report
        Called with every dataset that has been verified.
    newest
        Called with every sealed dataset that readers use, to tell whether it is the newest; see
        `acie_pipelines.secure.attestation`. By default hashes alone are verified, which an older
        state of the whole store has too.

    Returns
    -------
    int
        Number of datasets verified.

    Raises
    ------
    IntegrityError
        Names the first thing that does not match; also if there is no such observation.
    """
    # The observation itself must exist; what is made from it may still be to come.
    current = [
        current_manifest(store, "observation", key),
        *(
            current_manifest(store, kind, key)
            for kind in _DERIVED_KINDS
            if store.exists(f"{kind}/{key}/current.json")
        ),
        *(
            current_manifest(store, kind, f"{key}/{plane}")
            for kind in _PLANE_KINDS
            for plane in store.names(f"{kind}/{key}")
            if store.exists(f"{kind}/{key}/{plane}/current.json")
        ),
    ]
    count = verify_chain(store, *current, report=report)
    if newest is not None:
        for manifest in current:
            if manifest.kind in ATTESTED_KINDS:
                newest(manifest)
    return count


def verify_model(settings: Settings, name: str, report: Report) -> int:
    """Verify a registered model back to its catalogue and observations.

    Parameters
    ----------
    name
        An alias such as ``production``, or a version number.

    Raises
    ------
    IntegrityError
        Names the first thing that does not match.
    """
    from acie_pipelines.promotion import open_registry, resolve_version

    version = resolve_version(open_registry(settings), name)
    ref: InputRef = version.manifest
    store = Store(settings.storage_url)
    manifest = read_manifest(store, ref.kind, ref.key, ref.generation)
    if manifest.digest != ref.digest:
        raise IntegrityError(
            manifest.prefix,
            f"is not the release that version {version.version} was registered from",
            "register the model again",
        )
    return verify_chain(store, manifest, report=report)


def verify_everything(store: Store, report: Report, *, newest: Report | None = None) -> int:
    """Verify every observation in the store; parameters are those of `verify_observation`.

    A refused or interrupted one leaves no dataset behind. One that has lost its own while something
    made from it is still there does not pass. What was made from several observations follows.
    """
    keys = {
        key
        for kind in ("observation", *_DERIVED_KINDS)
        for key in store.names(kind)
        if store.exists(f"{kind}/{key}/current.json")
    }
    count = sum(verify_observation(store, key, report, newest=newest) for key in sorted(keys))
    joint = [
        current_manifest(store, kind, key)
        for kind in _JOINT_KINDS
        for key in store.names(kind)
        if store.exists(f"{kind}/{key}/current.json")
    ]
    return count + sum(_verify_alone(store, manifest, report) for manifest in joint)


def _verify_alone(store: Store, manifest: Manifest, report: Report) -> int:
    """Verify a dataset whose inputs are verified, and reported, already."""
    verify_chain(
        store,
        manifest,
        kinds=_JOINT_KINDS,
        report=lambda found: report(found) if found is manifest else None,
    )
    return 1
