"""The verdict on a model, one check per question. All of these block promotion."""

from collections.abc import Iterator, Mapping

import dagster as dg

from acie_pipelines.materialization import check
from acie_pipelines.provenance import Manifest

__all__ = ["COUNTERFACTUAL_CHECKS", "REPORT_CHECKS", "verdicts"]

_QUESTIONS: Mapping[str, str] = {
    "gain_over_marginals": "Held-out galaxies are likelier than under independent variables.",
    "gain_over_linear_gaussian": "Held-out galaxies are likelier than under linear regressions.",
    "calibration_ks": "Abducted noise of held-out galaxies follows the noise distribution.",
    "coverage_error_90": "Central 90 % intervals hold 90 % of held-out galaxies.",
    "composition_error": "An intervention that changes nothing changes nothing.",
    "parent_sensitivity": "Every mechanism listens to its causes.",
    "sampled_o_iii_doublet_percent": "Galaxies drawn from the model obey [OIII] 5007/4959 = 2.98.",
    "sampled_n_ii_doublet_percent": "Galaxies drawn from the model obey [NII] 6584/6548 = 3.05.",
    "counterfactual_o_iii_doublet_percent": "[OIII] 5007/4959 = 2.98 holds at twice the mass.",
    "counterfactual_n_ii_doublet_percent": "[NII] 6584/6548 = 3.05 holds at twice the mass.",
}

REPORT_CHECKS = [
    dg.AssetCheckSpec(name, asset="validation_report", blocking=True, description=question)
    for name, question in _QUESTIONS.items()
]

_COUNTERFACTUAL_QUESTIONS: Mapping[str, str] = {
    "counterfactual_error": "Spectra at twice the mass are what the galaxies would have been.",
    "spectral_composition": "An intervention that changes nothing leaves the spectrum.",
    "effectiveness_dex": "An independent regressor finds the mass that was asked for.",
    "coverage_error_pixels": "90 % intervals hold 90 % of noise-free pixels.",
    "coverage_error_latents": "90 % intervals hold 90 % of properties.",
    "counterfactual_coverage": "Intervals of counterfactual spectra hold the truth.",
    "posterior_gain": "The network knows more than the distribution of galaxies.",
    "reliable_share": "The engine trusts most of its answers.",
    "answered_doublet_percent": "[OIII] 5007/4959 = 2.98 in answered pixels.",
    "answered_balmer_percent": "H gamma / H beta is Case B behind the answer's dust.",
    "answered_energy_percent": "The starlight that is missing is what dust absorbs.",
    "answered_negative_flux": "No answer holds negative light.",
}

COUNTERFACTUAL_CHECKS = [
    dg.AssetCheckSpec(name, asset="counterfactual_report", blocking=True, description=question)
    for name, question in _COUNTERFACTUAL_QUESTIONS.items()
]


def verdicts(report: Manifest) -> Iterator[dg.AssetCheckResult]:
    """Give every check of a validation report to Dagster."""
    for entry in report.attributes["checks"]:
        value = entry["value"]
        yield check(
            entry["name"],
            bool(entry["passed"]),
            blocking=True,
            description=None if entry["passed"] else entry["why"],
            threshold=float(entry["threshold"]),
            **({} if value is None else {"value": float(value)}),
        )
