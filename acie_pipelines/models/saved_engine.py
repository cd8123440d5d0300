"""A trained `SpectralEngine` as files, and back, with every hash checked.

Belongs here: which files make an engine, and the places one is loaded from. Does not belong here:
training (`acie_pipelines.training.counterfactual_training`), or the engine itself.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.mechanisms import LearnedMechanisms
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.residual import LearnedResidual
from acie_pipelines.provenance import Manifest, read_manifest
from acie_pipelines.registry.registry import Version
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store

__all__ = [
    "CURVES_FILE",
    "KIND",
    "directory_manifest",
    "engine_files",
    "load_engine",
    "load_engine_from_directory",
    "load_registered_engine",
    "model_of_release",
]

KIND: Final = "counterfactual_model"
CURVES_FILE: Final = "curves.json"

_ENGINE_FILE: Final = "engine.json"
_POSTERIOR_SPEC_FILE: Final = "posterior.json"
_POSTERIOR_WEIGHTS_FILE: Final = "posterior.pt"
_MECHANISMS_SPEC_FILE: Final = "mechanisms.json"
_MECHANISMS_WEIGHTS_FILE: Final = "mechanisms.pt"
_RESIDUAL_FILE: Final = "residual.npz"
_FORMAT: Final = "acie.spectral-engine/2"
_MANIFEST_FILE: Final = "manifest.json"


def engine_files(engine: SpectralEngine) -> dict[str, bytes]:
    """Files of an engine: JSON, and weights that load without running code.

    Raises
    ------
    ModelError
        If the mechanisms were not learned.
    """
    if not isinstance(engine.mechanisms, LearnedMechanisms):
        raise ModelError("engine", "has mechanisms that were not learned", "fit a causal model")
    decoder = engine.decoder
    spec = {
        "format": _FORMAT,
        "preset": decoder.preset.name,
        "modes": decoder.smooth_modes,
        "mode_rms": decoder.mode_rms,
        "residual": decoder.residual is not None,
        "refinement_steps": engine.refinement_steps,
    }
    residual = {} if decoder.residual is None else {_RESIDUAL_FILE: decoder.residual.to_bytes()}
    return residual | {
        _ENGINE_FILE: _json(spec),
        _POSTERIOR_SPEC_FILE: _json(engine.posterior.spec()),
        _POSTERIOR_WEIGHTS_FILE: engine.posterior.weights(),
        _MECHANISMS_SPEC_FILE: _json(engine.mechanisms.spec()),
        _MECHANISMS_WEIGHTS_FILE: engine.mechanisms.weights(),
    }


def _json(body: object) -> bytes:
    return json.dumps(body, indent=1).encode() + b"\n"


def _engine(read: Callable[[str], bytes]) -> SpectralEngine:
    try:
        spec = json.loads(read(_ENGINE_FILE))
        if spec["format"] != _FORMAT:
            raise ValueError(f"unknown format {spec['format']!r}")
        learned = bool(spec["residual"])
        decoder = SpectralDecoder(
            str(spec["preset"]),
            modes=int(spec["modes"]),
            mode_rms=float(spec["mode_rms"]),
            residual=LearnedResidual.from_bytes(read(_RESIDUAL_FILE)) if learned else None,
        )
        steps = int(spec["refinement_steps"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("engine", f"cannot be loaded ({error})", "train it again") from error
    posterior = AmortisedPosterior.load(read(_POSTERIOR_SPEC_FILE), read(_POSTERIOR_WEIGHTS_FILE))
    mechanisms = LearnedMechanisms.load(read(_MECHANISMS_SPEC_FILE), read(_MECHANISMS_WEIGHTS_FILE))
    return SpectralEngine(posterior, decoder, mechanisms, refinement_steps=steps)


def _checked(
    manifest: Manifest, where: object, read: Callable[[str], bytes]
) -> Callable[[str], bytes]:
    """Read a file once and compare those bytes with the manifest."""
    if manifest.kind != KIND:
        raise ModelError(where, f"is a dataset of kind {manifest.kind}", f"give a {KIND}")
    stated: Mapping[str, str] = {output.path: output.sha256 for output in manifest.outputs}

    def checked(name: str) -> bytes:
        if name not in stated:
            raise ModelError(where, f"has no {name}", "train the model again")
        data = read(name)
        if hashlib.sha256(data).hexdigest() != stated[name]:
            raise IntegrityError(
                f"{where}/{name}",
                "content does not match the hash in its manifest",
                "it was changed or damaged; train the model again",
            )
        return data

    return checked


def load_engine(store: Store, manifest: Manifest) -> SpectralEngine:
    """Load the engine of a ``counterfactual_model`` dataset; on the CPU, ready to answer.

    Raises
    ------
    IntegrityError
        If its files do not match the manifest.
    ModelError
        If they do not make an engine, or the dataset is of another kind.
    """
    return _engine(
        _checked(
            manifest, manifest.prefix, lambda name: store.read_bytes(f"{manifest.prefix}/{name}")
        )
    )


def load_engine_from_directory(directory: Path) -> SpectralEngine:
    """Load an engine from a copy of its dataset, wherever that lies.

    Parameters
    ----------
    directory
        Holds ``manifest.json`` and the files that it names.

    Raises
    ------
    IntegrityError
        If the files do not match the manifest.
    ModelError
        If there is no manifest, or the files do not make an engine.
    """
    manifest = directory_manifest(directory)
    return _engine(_checked(manifest, directory, lambda name: _read_in(directory, name)))


def directory_manifest(directory: Path) -> Manifest:
    """Read the manifest of a copy of a dataset.

    Raises
    ------
    ModelError
        If there is none.
    """
    return Manifest.from_json(_read_in(directory, _MANIFEST_FILE), str(directory / _MANIFEST_FILE))


def _read_in(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise ModelError(
            directory / name,
            f"cannot be read ({error.strerror})",
            f"give the directory of a {KIND} with its {_MANIFEST_FILE}",
        ) from error


def model_of_release(store: Store, version: Version) -> Manifest:
    """Find the ``counterfactual_model`` that a registered version is a release of.

    Raises
    ------
    IntegrityError
        If a manifest on the way was changed.
    ModelError
        If the release is older than such models.
    """
    ref = version.manifest
    release = read_manifest(store, ref.kind, ref.key, ref.generation)
    found = next((each for each in release.inputs if each.kind == KIND), None)
    if found is None:
        raise ModelError(
            f"version {version.version}", f"holds no {KIND}", "retrain, or choose another version"
        )
    manifest = read_manifest(store, found.kind, found.key, found.generation)
    if release.digest != ref.digest or manifest.digest != found.digest:
        raise IntegrityError(
            manifest.prefix,
            f"is not what version {version.version} was registered with",
            "run `acie verify --model` to find what was changed",
        )
    return manifest


def load_registered_engine(settings: Settings, name: str) -> tuple[SpectralEngine, Version]:
    """Load the engine of a registered model.

    Parameters
    ----------
    settings
        Where registry and store are.
    name
        Alias such as ``production``, or version number.

    Raises
    ------
    PromotionError
        If there is no such version.
    IntegrityError, ModelError
        As from `load_engine` and `model_of_release`.
    """
    from acie_pipelines.promotion import open_registry, resolve_version

    version = resolve_version(open_registry(settings), name)
    store = Store(settings.storage_url)
    return load_engine(store, model_of_release(store, version)), version
