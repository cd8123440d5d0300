"""Sources on which measurements of counterfactual spectra depend.

Belongs here: lists of modules, for `acie_pipelines.evaluation.measurements.source_fingerprint`.
Does not belong here: what is measured.
"""

from typing import Final

__all__ = ["MECHANISM_SOURCES", "PEER_SOURCES", "POSTERIOR_SOURCES", "SOURCES"]

_SIMULATOR: Final = (
    "simulation/cosmology.py",
    "simulation/dust.py",
    "simulation/galaxy.py",
    "simulation/light.py",
    "simulation/mechanisms.py",
    "simulation/nebula.py",
    "simulation/presets.py",
    "simulation/profiles.py",
    "simulation/spectrum.py",
    "simulation/stars.py",
    "simulation/streams.py",
)

MECHANISM_SOURCES: Final = (
    "causal/build.py",
    "causal/categorical.py",
    "causal/fitting.py",
    "causal/kernel.py",
    "causal/kernel_basis.py",
    "causal/mechanisms.py",
    "causal/newton.py",
    "causal/refitting.py",
    "causal/scm.py",
    "causal/selection.py",
    "causal/splines.py",
    "causal/weight_draws.py",
    "models/mechanisms.py",
    "simulation/galaxy.py",
    "simulation/mechanisms.py",
)
"""What decides which mechanisms are learned."""

POSTERIOR_SOURCES: Final = (
    "models/parameters.py",
    "models/posterior.py",
    "models/posterior_training.py",
    "models/simulated.py",
    *_SIMULATOR,
)
"""What decides the amortised posterior."""

SOURCES: Final = (
    "models/counterfactual.py",
    "models/decoder.py",
    "models/importance.py",
    "models/intervals.py",
    "models/latents.py",
    "models/linear_algebra.py",
    "models/mode_search.py",
    "models/outliers.py",
    "models/redshift.py",
    "models/refinement.py",
    "models/unseen.py",
    *MECHANISM_SOURCES,
    *POSTERIOR_SOURCES,
)
"""What decides what our side finds in spectra."""

PEER_SOURCES: Final = (*_SIMULATOR, "models/vae.py", "evaluation/spectral_peers.py")
"""What decides what a peer finds in spectra."""
