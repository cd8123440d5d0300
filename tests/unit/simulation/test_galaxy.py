"""Simulated galaxies: cited relations, exact abduction, laws of counterfactuals, determinism."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.simulation.cosmology import age_of_universe_gyr, luminosity_distance_mpc
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING, GalaxySCM, galaxy_graph
from acie_pipelines.simulation.mechanisms import CONTINUOUS
from acie_pipelines.simulation.streams import uniforms

SCM = GalaxySCM()
COUNT = 20_000
NOISE = SCM.draw_noise(COUNT, seed=5)
GALAXIES = SCM.values(NOISE)
LOG2 = float(np.log10(2.0))
COSMOLOGY = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)


def columns() -> dict[str, np.ndarray]:
    return {name: values.numpy() for name, values in GALAXIES.items()}


def test_distances_and_ages_agree_with_astropy() -> None:
    redshift = np.array([0.001, 0.02, 0.1, 0.5, 1.0])
    distance = luminosity_distance_mpc(torch.from_numpy(redshift)).numpy()
    age = age_of_universe_gyr(torch.from_numpy(redshift)).numpy()
    np.testing.assert_allclose(distance, COSMOLOGY.luminosity_distance(redshift).value, rtol=1e-8)
    np.testing.assert_allclose(age, COSMOLOGY.age(redshift).value, rtol=1e-6)


def test_main_sequence_is_that_of_popesso_2023() -> None:
    galaxies = columns()
    forming = galaxies["star_formation_state"] == STAR_FORMING
    time = COSMOLOGY.age(galaxies["redshift"]).value
    turnover = 10 ** (10.85 - 0.0729 * time)
    ratio = 10 ** galaxies["stellar_mass"] / turnover
    expected = 2.693 - 0.186 * time - np.log10(1 + ratio**-0.99)
    residual = (galaxies["sfr"] - expected)[forming]
    assert abs(np.median(residual)) < 0.03
    high, low = galaxies["stellar_mass"][forming] > 10.5, galaxies["stellar_mass"][forming] < 9.3
    assert 0.18 < residual[high].std() < 0.24 < residual[low].std()


def test_metallicity_follows_the_relation_of_curti_2020() -> None:
    galaxies = columns()
    turnover = 10.11 + 0.56 * galaxies["sfr"]
    ratio = 10 ** (galaxies["stellar_mass"] - turnover)
    residual = galaxies["metallicity"] - (8.779 - 0.31 / 2.1 * np.log10(1 + ratio**-2.1))
    massive = galaxies["stellar_mass"] > 10.0
    assert abs(residual.mean()) < 0.002
    assert residual[massive].std() == pytest.approx(0.054, rel=0.1)
    assert residual[galaxies["stellar_mass"] < 9.0].std() > 0.065


def test_sizes_are_those_of_van_der_wel_2014() -> None:
    galaxies = columns()
    at_pivot = np.abs(galaxies["stellar_mass"] - np.log10(5e10)) < 0.05
    stretch = 1 + galaxies["redshift"]
    for state, radius, power in ((STAR_FORMING, 8.9, -0.75), (QUENCHED, 5.6, -1.48)):
        chosen = at_pivot & (galaxies["star_formation_state"] == state)
        scaled = 10 ** galaxies["size"][chosen] / stretch[chosen] ** power
        assert np.median(scaled) == pytest.approx(radius, rel=0.06)
    early = (galaxies["star_formation_state"] == QUENCHED) & (galaxies["stellar_mass"] > 10.6)
    late = (galaxies["star_formation_state"] == STAR_FORMING) & (galaxies["stellar_mass"] > 9.5)
    scaled_size = galaxies["size"] + 1.48 * np.log10(stretch)
    slope = np.polyfit(galaxies["stellar_mass"][early], scaled_size[early], 1)[0]
    assert slope == pytest.approx(0.75, abs=0.05)
    slope = np.polyfit(galaxies["stellar_mass"][late], galaxies["size"][late], 1)[0]
    assert slope == pytest.approx(0.22, abs=0.04)


def test_quenched_fraction_is_that_of_peng_2010() -> None:
    galaxies = columns()
    density, mass = 10 ** galaxies["environment"], 10 ** galaxies["stellar_mass"]
    expected = 1 - np.exp(-((density / 10**1.84) ** 0.60) - (mass / 10**10.56) ** 0.80)
    edges = np.quantile(expected, np.linspace(0, 1, 11))
    for low, high in pairwise(edges):
        chosen = (expected >= low) & (expected < high)
        fraction = (galaxies["star_formation_state"][chosen] == QUENCHED).mean()
        # Four standard errors of a tenth of the sample.
        assert fraction == pytest.approx(expected[chosen].mean(), abs=4 * 0.5 / np.sqrt(COUNT / 10))


def test_gas_obeys_kennicutt_schmidt() -> None:
    galaxies = columns()
    gas = 10 ** galaxies["stellar_mass"] / (1 / galaxies["gas_fraction"] - 1)
    area_kpc2 = 2 * np.pi * 10 ** (2 * galaxies["size"])
    star_formation = 10 ** galaxies["sfr"] / area_kpc2
    predicted = 2.5e-4 * (gas / (area_kpc2 * 1e6)) ** 1.4
    residual = np.log10(star_formation / predicted)
    assert abs(residual.mean()) < 0.01
    assert residual.std() == pytest.approx(0.28, rel=0.03)


def test_black_holes_follow_gultekin_2009() -> None:
    galaxies = columns()
    log_sigma = galaxies["velocity_dispersion"] - np.log10(200)
    for state, intercept, slope, scatter in (
        (QUENCHED, 8.23, 3.96, 0.31),
        (STAR_FORMING, 8.12, 4.24, 0.44),
    ):
        chosen = galaxies["star_formation_state"] == state
        residual = (galaxies["black_hole_mass"] - intercept - slope * log_sigma)[chosen]
        assert abs(residual.mean()) < 0.02
        assert residual.std() == pytest.approx(scatter, rel=0.03)


def test_attenuation_at_ten_billion_suns_agrees_with_garn_and_best_2010() -> None:
    # A(H alpha) = 0.91 mag at 10^10 Msun, k(H alpha) = 3.33; gas is reddened 1 / 0.44 times more.
    galaxies = columns()
    chosen = np.abs(galaxies["stellar_mass"] - 10.0) < 0.1
    chosen &= galaxies["star_formation_state"] == STAR_FORMING
    expected = 0.91 / 3.33 * 0.44 * 4.05
    assert np.median(galaxies["attenuation"][chosen]) == pytest.approx(expected, rel=0.25)


def test_stars_are_younger_than_the_universe() -> None:
    galaxies = columns()
    share = 10 ** galaxies["age"] / COSMOLOGY.age(galaxies["redshift"]).value
    assert share.max() < 1.0
    forming = galaxies["star_formation_state"] == STAR_FORMING
    assert np.median(share[~forming]) > np.median(share[forming]) + 0.2


def test_values_stay_inside_their_supports() -> None:
    for name, values in columns().items():
        low, high = SCM.graph.nodes[name].support
        assert np.isfinite(values).all()
        assert (values >= low).mean() > 0.9999
        assert (values <= high).mean() > 0.9999


def test_noise_is_recovered_from_galaxies() -> None:
    abducted = SCM.abduct(GALAXIES, seed=1)
    for name in SCM.names:
        if name != "star_formation_state":
            torch.testing.assert_close(abducted[name], NOISE[name], rtol=1e-9, atol=1e-9)
    again = SCM.values(abducted)
    for name in SCM.names:
        torch.testing.assert_close(again[name], GALAXIES[name], rtol=1e-10, atol=1e-10)


def test_abducted_noise_of_the_state_has_the_prior_distribution() -> None:
    # Averaged over the population, the posterior of the noise is its prior.
    state = np.sort(SCM.abduct(GALAXIES, seed=2)["star_formation_state"].numpy())
    quantiles = 1 / (1 + np.exp(-state))
    uniform = (np.arange(COUNT) + 0.5) / COUNT
    # Kolmogorov-Smirnov at the 0.1 % level.
    assert np.abs(quantiles - uniform).max() < 1.95 / np.sqrt(COUNT)


@pytest.mark.parametrize("name", SCM.names)
def test_only_effects_of_the_intervened_node_change(name: str) -> None:
    if name == "star_formation_state":
        do = Intervention(name, "set", QUENCHED)
    else:
        do = Intervention(name, "shift", 0.05)
    truth = SCM.counterfactual(NOISE, [do])
    effects = SCM.graph.descendants(name)
    for other in SCM.names:
        if other != name and other not in effects:
            assert torch.equal(truth[other], GALAXIES[other])
        elif other != name:
            assert not torch.equal(truth[other], GALAXIES[other])
    if do.kind == "shift":
        torch.testing.assert_close(truth[name], GALAXIES[name] + 0.05)


def test_doing_nothing_changes_nothing() -> None:
    unchanged = SCM.counterfactual(NOISE, [Intervention("stellar_mass", "shift", 0.0)])
    assert all(torch.equal(unchanged[name], GALAXIES[name]) for name in SCM.names)
    assert all(torch.equal(SCM.counterfactual(NOISE, [])[n], GALAXIES[n]) for n in SCM.names)


def test_an_intervention_is_undone_by_its_opposite() -> None:
    forth = SCM.counterfactual(NOISE, [Intervention("stellar_mass", "shift", LOG2)])
    back = SCM.values(NOISE, do=[Intervention("stellar_mass", "shift", -LOG2)], factual=forth)
    for name in SCM.names:
        torch.testing.assert_close(back[name], GALAXIES[name], rtol=0, atol=1e-9)


def test_more_mass_never_restarts_star_formation() -> None:
    truth = SCM.counterfactual(NOISE, [Intervention("stellar_mass", "shift", LOG2)])
    change = truth["star_formation_state"] - GALAXIES["star_formation_state"]
    assert change.min() == 0.0
    assert 0.05 < change.mean() < 0.2


def test_abducted_counterfactuals_are_the_true_ones_where_the_category_is_settled() -> None:
    do = [Intervention("metallicity", "shift", 0.2)]
    truth = SCM.counterfactual(NOISE, do)
    answer = SCM.counterfactual(SCM.abduct(GALAXIES, seed=3), do)
    for name in SCM.names:
        torch.testing.assert_close(answer[name], truth[name], rtol=1e-9, atol=1e-9)


def test_additive_noise_gives_wrong_counterfactuals_of_attenuation() -> None:
    # Even with the true conditional mean: the noise multiplies it.
    mechanism = CONTINUOUS["attenuation"]
    truth = SCM.counterfactual(NOISE, [Intervention("stellar_mass", "shift", LOG2)])

    def mean(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.exp(mechanism.location(values) + 0.5 * mechanism.scale(values) ** 2)

    additive = GALAXIES["attenuation"] + mean(truth) - mean(GALAXIES)
    error = (additive - truth["attenuation"]).square().mean().sqrt()
    assert error / GALAXIES["attenuation"].std() > 0.1


def test_set_overrides_causes() -> None:
    truth = SCM.counterfactual(
        NOISE,
        [Intervention("environment", "shift", 1.0), Intervention("stellar_mass", "set", 10.0)],
    )
    assert torch.equal(truth["stellar_mass"], torch.full((COUNT,), 10.0, dtype=torch.float64))


def test_values_are_differentiable_in_noise() -> None:
    noise = SCM.draw_noise(3, seed=8)
    names = [name for name in SCM.names if name != "star_formation_state"]

    def galaxies(*columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = SCM.values({**noise, **dict(zip(names, columns, strict=True))})
        return tuple(values[name] for name in names)

    inputs = tuple(noise[name].clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(galaxies, inputs)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000), st.integers(1, 50), st.integers(1, 9))
def test_rows_do_not_depend_on_the_rows_drawn_with_them(
    seed: int, start: int, count: int, columns: int
) -> None:
    together = uniforms(seed, 3, start, start + count, columns)
    apart = torch.cat([uniforms(seed, 3, i, i + 1, columns) for i in range(start, start + count)])
    assert torch.equal(together, apart)
    assert ((together > 0) & (together < 1)).all()


def test_seeds_and_streams_differ() -> None:
    draws = [uniforms(seed, stream, 0, 100, 3) for seed in (0, 1) for stream in (0, 1)]
    for i, one in enumerate(draws):
        assert all(not torch.equal(one, other) for other in draws[i + 1 :])


def test_interventions_outside_the_model_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="only a category can be set"):
        SCM.sample(2, seed=0, do=[Intervention("star_formation_state", "set", 0.5)])
    with pytest.raises(ConfigurationError, match="leaves the support"):
        SCM.sample(2, seed=0, do=[Intervention("stellar_mass", "set", 20.0)])
    with pytest.raises(ModelError, match="names a node twice"):
        SCM.sample(2, seed=0, do=[Intervention("sfr", "set", 0.0), Intervention("sfr", "set", 1.0)])
    with pytest.raises(ModelError, match="lacks"):
        SCM.values({"redshift": torch.zeros(2)})


def test_graph_survives_yaml() -> None:
    assert CausalGraph.from_yaml(galaxy_graph().to_yaml()) == galaxy_graph()
