"""The ``counterfactual_model`` dataset: posterior and mechanisms of simulated galaxies, resumable.

Belongs here: what is trained from a file of simulated galaxies, outputs with hashes.
Does not belong here: the optimiser loop (`acie_pipelines.models.posterior_training`), checkpoints
(`acie_pipelines.training.resumable`), reading the result (`acie_pipelines.models.saved_engine`) or
what MLflow sees (`acie_pipelines.training.tracking`).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.refitting import refit
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.selection import fit_chosen_families
from acie_pipelines.errors import ConfigurationError, IntegrityError
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.mechanisms import LearnedMechanisms
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.posterior_monitor import CollapseMonitor
from acie_pipelines.models.posterior_training import (
    PosteriorEpoch,
    PosteriorFitter,
    PosteriorTraining,
)
from acie_pipelines.models.saved_engine import CURVES_FILE, KIND, engine_files
from acie_pipelines.observations.identity import content_sha256
from acie_pipelines.provenance import (
    Manifest,
    Output,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.simulation.galaxy import galaxy_graph
from acie_pipelines.simulation.presets import preset
from acie_pipelines.storage import Store
from acie_pipelines.training.interruption import Interruption
from acie_pipelines.training.resumable import Checkpoint, Tracker, run_epochs
from acie_pipelines.training.spectra_file import SpectraFile

__all__ = [
    "CounterfactualTraining",
    "MechanismTraining",
    "NetworkShape",
    "learn_mechanisms",
    "learnable_graph",
    "read_curves",
    "train_counterfactual_model",
]

_STATE: Final = "star_formation_state"
_MECHANISMS: Final = "mechanisms.pt"

Families = Literal["chosen", "additive", "heteroscedastic", "post_nonlinear", "spline"]


@dataclass(frozen=True)
class MechanismTraining:
    """How the mechanisms between properties are learned.

    Attributes
    ----------
    rows
        Galaxies to learn from, at most.
    families
        One family for all continuous variables, or ``chosen``: the kernel family that predicts
        held-out galaxies best, variable by variable, at three times the cost.
    shape, fit
        Of the mechanisms, and of their fit.
    """

    rows: int = 10_000
    families: Families = "chosen"
    shape: MechanismConfig = field(default_factory=MechanismConfig)
    fit: FitConfig = field(default_factory=lambda: FitConfig(max_epochs=40))


@dataclass(frozen=True)
class NetworkShape:
    """As of `acie_pipelines.models.posterior.PosteriorConfig`, on the grid of the spectra."""

    hidden: int = 256
    blocks: int = 2
    transforms: int = 2
    spline_hidden: int = 64


@dataclass(frozen=True)
class CounterfactualTraining:
    """What decides the model, and how often its state is saved.

    Attributes
    ----------
    network, posterior
        Shape of the amortised posterior, and its training.
    mechanisms
        Learning of the mechanisms.
    refinement_steps
        Of the engine's answers.
    most_nats_lost
        Entropy that the posterior's draws may lack before it counts as collapsed.
    checkpoint_minutes
        A checkpoint is written after the first epoch that ends this long after the last one.
    """

    network: NetworkShape = field(default_factory=NetworkShape)
    posterior: PosteriorTraining = field(default_factory=PosteriorTraining)
    mechanisms: MechanismTraining = field(default_factory=MechanismTraining)
    refinement_steps: int = 40
    most_nats_lost: float = 6.0
    checkpoint_minutes: float = 5.0

    def parameters(self) -> dict[str, Any]:
        """List what the result depends on; checkpoints do not change it."""
        body = asdict(self)
        del body["checkpoint_minutes"]
        return body


def learnable_graph() -> CausalGraph:
    """Graph of the simulated galaxy whose star formation state is a category to be learned."""
    graph = galaxy_graph()
    state = replace(
        graph.nodes[_STATE], mechanism="categorical", categories=("star-forming", "quenched")
    )
    return CausalGraph(state if n == _STATE else node for n, node in graph.nodes.items())


def learn_mechanisms(data: SpectraFile, config: MechanismTraining) -> LearnedMechanisms:
    """Fit a causal model to the properties of the galaxies in a file, and find its error."""
    graph = learnable_graph()
    train, validation = data.table(graph, config.rows)
    if config.families == "chosen":
        model = fit_chosen_families(graph, train, validation, config.shape, config.fit)
    else:
        declared = CausalGraph(
            node if node.categories else replace(node, mechanism=config.families)
            for node in graph.nodes.values()
        )
        model = StructuralCausalModel(declared, config.shape, seed=config.fit.seed)
        fit_scm(model, train, validation, config.fit)
    rows = torch.cat([train, validation])
    refit(model, rows, seed=config.fit.seed)
    return LearnedMechanisms.of(model.eval(), rows, seed=config.fit.seed)


def train_counterfactual_model(
    store: Store,
    key: str,
    path: Path,
    config: CounterfactualTraining,
    *,
    code_version: str,
    data: Manifest | None = None,
    tracker: Tracker[str, PosteriorEpoch] | None = None,
    progress: Callable[[PosteriorEpoch], None] | None = None,
    checkpoint_prefix: str = "checkpoints",
    interruption: Interruption | None = None,
) -> Manifest:
    """Train a counterfactual model of spectra.

    A run that was killed goes on from its last checkpoint and, on a CPU with as many threads, ends
    with the same bytes as one that was not.

    Parameters
    ----------
    store, key
        Where the model is kept.
    path
        Simulated galaxies; read as a stream.
    config
        Shape, length and checkpoint interval.
    code_version
        Version of the code, for provenance.
    data
        Dataset that the file is from, if any.
    tracker
        Where to report; nowhere by default.
    progress
        Called after each epoch.
    checkpoint_prefix
        Prefix in the store below which checkpoints are kept while training.
    interruption
        Where signals are heard that shall end the training after an epoch; nowhere by default.

    Returns
    -------
    Manifest
        Kind ``counterfactual_model``; attributes hold validation losses, epochs, the device and
        how it was used, the simulation and the tracker's run id.

    Raises
    ------
    ConfigurationError
        If the file cannot be trained from.
    IntegrityError
        If it is not the file of its dataset.
    ModelError
        If training diverges or collapses, or a checkpoint cannot be read.
    TrainingInterrupted
        If a signal was heard.
    """
    source = SpectraFile(path)
    if preset(source.simulation.preset).continuum_modes:
        raise ConfigurationError(
            path, "has nuisance modes that the decoder does not model", "use another preset"
        )
    digest = content_sha256(path)
    if data is not None and digest not in {output.sha256 for output in data.outputs}:
        raise IntegrityError(
            path, "content does not match the hash in its manifest", "simulate the galaxies again"
        )
    inputs = (data.as_input(),) if data is not None else ()
    parameters = config.parameters() | {"data": {"sha256": digest, "request": source.request}}
    ready = reusable_manifest(
        store, KIND, key, inputs=inputs, code_version=code_version, parameters=parameters
    )
    if ready is not None:
        return ready
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = Checkpoint(
        store,
        checkpoint_prefix,
        [key, parameters, code_version],
        seconds=60 * config.checkpoint_minutes,
    )
    run_id = None
    if tracker is not None:
        run_id = tracker.start(parameters, digest, code_version)
    try:
        mechanisms = _kept_mechanisms(
            checkpoint, lambda: learn_mechanisms(source, config.mechanisms)
        )
        decoder = SpectralDecoder(source.simulation.preset)
        validation = source.validation()
        shape = PosteriorConfig(source.pixels, **asdict(config.network))
        fitter = PosteriorFitter(
            AmortisedPosterior(shape, seed=config.posterior.seed).to(device),
            source,
            validation,
            config.posterior,
            monitor=CollapseMonitor(
                validation,
                decoder,
                most_nats_lost=config.most_nats_lost,
                seed=config.posterior.seed,
            ),
        )
        checkpoint.restore(fitter)
        run_epochs(fitter, checkpoint, tracker, progress, interruption)
        engine = SpectralEngine(
            fitter.finish().cpu(),
            decoder,
            mechanisms,
            refinement_steps=config.refinement_steps,
        )
        curves = json.dumps([asdict(epoch) for epoch in fitter.history], indent=1)
        files = engine_files(engine) | {CURVES_FILE: curves.encode() + b"\n"}
        best = min(fitter.history, key=lambda epoch: epoch.validation["density"])
        attributes = {
            "validation_loss_nats": best.validation,
            "best_epoch": best.epoch,
            "epochs": len(fitter.history),
            "monitors": best.monitors,
            "galaxies": source.count,
            "preset": source.simulation.preset,
            "simulation_seed": source.simulation.seed,
            "device": device.type,
            "acceleration": asdict(fitter.acceleration),
            "torch": str(torch.__version__),
        } | ({"mlflow_run_id": run_id} if run_id is not None else {})
        with new_generation(
            store, KIND, key, inputs=inputs, code_version=code_version, parameters=parameters
        ) as generation:
            for name, content in files.items():
                store.write_bytes(f"{generation.prefix}/{name}", content)
            outputs = tuple(Output(n, hashlib.sha256(d).hexdigest()) for n, d in files.items())
            manifest = generation.commit(outputs, attributes)
        if tracker is not None:
            tracker.finish(mechanisms.model.graph, fitter.history, manifest, files)
    except BaseException:
        if tracker is not None:
            tracker.fail()
        raise
    checkpoint.delete()
    return manifest


def read_curves(store: Store, manifest: Manifest) -> list[PosteriorEpoch]:
    """Read what each epoch of a training brought."""
    curves = json.loads(store.read_bytes(f"{manifest.prefix}/{CURVES_FILE}"))
    return [PosteriorEpoch(**epoch) for epoch in curves]


def _kept_mechanisms(
    checkpoint: Checkpoint, learn: Callable[[], LearnedMechanisms]
) -> LearnedMechanisms:
    """Give the mechanisms that were learned before, or learn and keep them."""
    state = checkpoint.load(_MECHANISMS)
    if state is not None:
        weights = state["weights"].numpy().tobytes()
        return LearnedMechanisms.load(state["spec"].encode(), weights)
    found = learn()
    # As they will be loaded, so that an interruption changes nothing.
    spec, weights = json.dumps(found.spec()), found.weights()
    kept = torch.frombuffer(bytearray(weights), dtype=torch.uint8)
    checkpoint.save(_MECHANISMS, {"spec": spec, "weights": kept})
    return LearnedMechanisms.load(spec.encode(), weights)
