"""How each property of a simulated galaxy follows from its causes and one noise term.

Belongs here: the mechanisms, each with its source. Does not belong here: how they are joined
(`acie_pipelines.simulation.galaxy`), or light.

Masses, rates, sizes and the like are decimal logarithms in the units of
`acie_pipelines.simulation.galaxy.galaxy_graph`. A coefficient "by hand" has no source: it gives the
noise a shape that a model with additive noise cannot represent, or a plausible size. One "as
commonly quoted" is that of the paper named as later work repeats it; it was not compared with the
paper's own table.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.simulation.cosmology import age_of_universe_gyr

__all__ = ["CONTINUOUS", "RETURN_FRACTION", "Mechanism", "quenching_log_odds"]

Values = Mapping[str, Tensor]

RETURN_FRACTION: Final = 0.41
"""Mass returned by a generation of stars, Chabrier initial mass function: Madau & Dickinson 2014,
ARA&A 52, 415, doi:10.1146/annurev-astro-081811-125615, section 1."""

_GRAVITATION: Final = 4.30091e-6  # kpc km^2 s^-2 / Msun
_SOLAR_METALLICITY: Final = 8.69  # Asplund et al. 2009, ARA&A 47, 481, table 1


@dataclass(frozen=True)
class Mechanism:
    """Monotone map between standard normal noise and a variable, given its parents.

    ``link(x) = location + scale * skewed(u)``, where ``skewed`` is the sinh-arcsinh transformation
    of Jones & Pewsey 2009, Biometrika 96, 761, doi:10.1093/biomet/asp053.

    Attributes
    ----------
    location, scale
        Functions of the parents.
    link, unlink
        Monotone map of the variable, given the parents, onto the real line, and its inverse.
    skewness, tail
        Of the noise; a smaller tail parameter means heavier tails.
    """

    location: Callable[[Values], Tensor]
    scale: Callable[[Values], Tensor]
    link: Callable[[Tensor, Values], Tensor] = lambda x, _: x
    unlink: Callable[[Tensor, Values], Tensor] = lambda y, _: y
    skewness: float = 0.0
    tail: float = 1.0

    def value(self, noise: Tensor, parents: Values) -> Tensor:
        """Variable from its noise, shape ``(n,)``."""
        skewed = torch.sinh((torch.asinh(noise) + self.skewness) / self.tail)
        return self.unlink(self.location(parents) + self.scale(parents) * skewed, parents)

    def noise(self, value: Tensor, parents: Values) -> Tensor:
        """Noise from the variable; inverse of `value`."""
        skewed = (self.link(value, parents) - self.location(parents)) / self.scale(parents)
        return torch.sinh(self.tail * torch.asinh(skewed) - self.skewness)


def quenching_log_odds(parents: Values) -> Tensor:
    """Log odds of being quenched, from mass and environment.

    The quenched fraction is ``1 - exp(-(rho/p1)^p2 - (M/p3)^p4)`` with log p1 = 1.84, p2 = 0.60,
    log p3 = 10.56, p4 = 0.80 (Peng et al. 2010, ApJ 721, 193,
    doi:10.1088/0004-637X/721/1/193, for SDSS; as commonly quoted).
    """
    hazard = 10 ** (0.60 * (parents["environment"] - 1.84))
    hazard = hazard + 10 ** (0.80 * (parents["stellar_mass"] - 10.56))
    return hazard + torch.log(-torch.expm1(-hazard))


def _by_state(parents: Values, star_forming: Tensor, quenched: Tensor) -> Tensor:
    return torch.where(parents["star_formation_state"] > 0.5, quenched, star_forming)


def _constant(value: float) -> Callable[[Values], Tensor]:
    return lambda parents: torch.full_like(next(iter(parents.values())), value)


def _main_sequence(parents: Values) -> Tensor:
    """Log SFR: Popesso et al. 2023, MNRAS 519, 1526, doi:10.1093/mnras/stac3214, equation 14.

    a0..a4 = 2.693, -0.186, 10.85, -0.0729, 0.99 with the age of the universe in Gyr, as commonly
    quoted.
    """
    time = age_of_universe_gyr(parents["redshift"])
    turnover = 10.85 - 0.0729 * time
    bend = torch.log10(1 + 10 ** (-0.99 * (parents["stellar_mass"] - turnover)))
    return 2.693 - 0.186 * time - bend


def _star_formation_rate(parents: Values) -> Tensor:
    """Follow the main sequence, or a specific rate near 10^-12 / yr once quenched.

    The quenched peak lies below the break at 10^-11 / yr that Wetzel et al. 2012, MNRAS 424, 232,
    doi:10.1111/j.1365-2966.2012.21188.x, find at all masses; its place is by hand.
    """
    mass = parents["stellar_mass"]
    quenched = mass - 11.9 - 0.2 * (mass - 10.5)
    return _by_state(parents, _main_sequence(parents), quenched)


def _star_formation_scatter(parents: Values) -> Tensor:
    """Wider at low mass and once quenched, by hand around the 0.2 dex of Speagle et al. 2014.

    ApJS 214, 15, doi:10.1088/0067-0049/214/2/15, abstract.
    """
    mass = parents["stellar_mass"]
    star_forming = 0.20 + 0.10 * torch.sigmoid((9.7 - mass) / 0.4)
    return _by_state(parents, star_forming, 0.35 + 0.0 * mass)


def _size(parents: Values) -> Tensor:
    """Log effective radius: van der Wel et al. 2014, ApJ 788, 28, doi:10.1088/0004-637X/788/1/28.

    Late types 8.9 kpc (1+z)^-0.75 (M / 5e10)^0.22, early types 5.6 kpc (1+z)^-1.48 (M / 5e10)^0.75.
    The powers are in the abstract, the sizes at 5e10 Msun as commonly quoted. The early slope holds
    above 2e10 Msun; that of late types is taken below it.
    """
    mass = parents["stellar_mass"] - math.log10(5e10)
    stretch = torch.log10(1 + parents["redshift"])
    late = math.log10(8.9) - 0.75 * stretch + 0.22 * mass
    knee = math.log10(2e10 / 5e10)
    width = 0.1
    steepening = width * torch.nn.functional.softplus((mass - knee) / width)
    pivot = width * math.log1p(math.exp(-knee / width))
    early = math.log10(5.6) - 1.48 * stretch + 0.22 * mass + 0.53 * (steepening - pivot)
    return _by_state(parents, late, early)


def _size_scatter(parents: Values) -> Tensor:
    """0.16 dex for late, 0.10 dex for early types: van der Wel et al. 2014, as commonly quoted."""
    mass = parents["stellar_mass"]
    return _by_state(parents, 0.16 + 0.0 * mass, 0.10 + 0.0 * mass)


def _gas_surface_density(parents: Values) -> Tensor:
    """Log gas surface density [Msun/pc^2] within the effective radius, from gas fraction."""
    fraction = parents["gas_fraction"]
    mass = parents["stellar_mass"] + torch.log10(fraction / (1 - fraction))
    return mass - math.log10(2 * math.pi) - 2 * (parents["size"] + 3.0)


def _gas_log_odds(parents: Values) -> Tensor:
    """Natural log of gas over stellar mass, from the inverted Kennicutt-Schmidt law.

    Sigma_SFR = 2.5e-4 (Sigma_gas / [Msun pc^-2])^1.4 Msun / yr / kpc^2: Kennicutt 1998, ApJ 498,
    541, doi:10.1086/305588, equation 4. Half of star formation and gas lie within the effective
    radius.
    """
    area = math.log10(2 * math.pi) + 2 * parents["size"]
    density = (parents["sfr"] - area - math.log10(2.5e-4)) / 1.4
    return math.log(10) * (density + area + 6.0 - parents["stellar_mass"])


def _metallicity(parents: Values) -> Tensor:
    """12 + log O/H: Curti et al. 2020, MNRAS 491, 944, doi:10.1093/mnras/stz2910, section 5.

    Z0 = 8.779, gamma = 0.31, beta = 2.1, log M0 = 10.11 + 0.56 log SFR, as commonly quoted.
    """
    turnover = 10.11 + 0.56 * parents["sfr"]
    decline = torch.log10(1 + 10 ** (-2.1 * (parents["stellar_mass"] - turnover)))
    return 8.779 - 0.31 / 2.1 * decline


def _metallicity_scatter(parents: Values) -> Tensor:
    """0.054 dex (Curti et al. 2020, abstract), by hand half as much again at low mass."""
    return 0.054 * (1 + 0.5 * torch.sigmoid((9.3 - parents["stellar_mass"]) / 0.3))


def _attenuation(parents: Values) -> Tensor:
    """Natural log of A_V [mag]: the column of gas through the disc times dust per gas.

    N_H / A_V = 1.87e21 cm^-2 mag^-1 in the Milky Way (Bohlin et al. 1978, ApJ 224, 132,
    doi:10.1086/156357, with R_V = 3.1), 1 Msun pc^-2 with helium = 9.2e19 H cm^-2, and dust per
    gas proportional to O/H.
    """
    per_column = math.log10(9.2e19 / 1.87e21)
    metals = parents["metallicity"] - _SOLAR_METALLICITY
    return math.log(10) * (per_column + metals + _gas_surface_density(parents))


def _attenuation_scatter(parents: Values) -> Tensor:
    """Inclination and geometry, by hand; discs with more gas are more uneven."""
    return 0.35 + 0.25 * parents["gas_fraction"]


def _age_location(parents: Values) -> Tensor:
    """Logit of mean stellar age over the age of the universe.

    A galaxy that formed its stars at a constant rate has b = (1 - R) SFR t / M = 1 and a mean age
    of half the age of the universe; with b towards 0 its stars are old. The power 0.4 of b is by
    hand.
    """
    time = torch.log10(age_of_universe_gyr(parents["redshift"])) + 9.0
    formed = math.log10(1 - RETURN_FRACTION) + parents["sfr"] + time - parents["stellar_mass"]
    return -0.4 * math.log(10) * formed


def _velocity_dispersion(parents: Values) -> Tensor:
    """Log sigma [km/s] from the virial theorem, sigma^2 = G M / (5 R_e).

    The factor 5 is that of Cappellari et al. 2006, MNRAS 366, 1126,
    doi:10.1111/j.1365-2966.2005.09981.x. Dark matter doubles stars and gas, by hand.
    """
    baryons = parents["stellar_mass"] - torch.log10(1 - parents["gas_fraction"])
    return 0.5 * (math.log10(2.0 * _GRAVITATION / 5.0) + baryons - parents["size"])


def _black_hole(parents: Values) -> Tensor:
    """Log M_BH = 8.23 + 3.96 log(sigma / 200 km/s) of ellipticals, 8.12 and 4.24 of all galaxies.

    Gultekin et al. 2009, ApJ 698, 198, doi:10.1088/0004-637X/698/1/198, abstract. The first is used
    for quenched galaxies, the second for those that form stars.
    """
    dispersion = parents["velocity_dispersion"] - math.log10(200)
    return _by_state(parents, 8.12 + 4.24 * dispersion, 8.23 + 3.96 * dispersion)


def _black_hole_scatter(parents: Values) -> Tensor:
    """0.31 dex for ellipticals and 0.44 dex for all galaxies (Gultekin et al. 2009, abstract)."""
    mass = parents["velocity_dispersion"]
    return _by_state(parents, 0.44 + 0.0 * mass, 0.31 + 0.0 * mass)


def _ionisation(parents: Values) -> Tensor:
    """Ionisation grows with specific star formation rate; slope and bounds by hand."""
    specific = parents["sfr"] - parents["stellar_mass"] + 10.0
    return 0.4 * torch.tanh(specific)


def _logit(fraction: Tensor) -> Tensor:
    return torch.log(fraction) - torch.log1p(-fraction)


def _age_fraction(value: Tensor, parents: Values) -> Tensor:
    return _logit(10**value / age_of_universe_gyr(parents["redshift"]))


def _age_from_fraction(linked: Tensor, parents: Values) -> Tensor:
    time = age_of_universe_gyr(parents["redshift"])
    return torch.log10(time) + torch.nn.functional.logsigmoid(linked) / math.log(10)


_LOWEST_REDSHIFT: Final = 0.02
_REDSHIFT_RANGE: Final = 0.20

CONTINUOUS: Final[Mapping[str, Mechanism]] = {
    # The ranges of a low-redshift survey; redshift, environment and mass are designs of the sample.
    "redshift": Mechanism(
        _constant(0.0),
        _constant(1.2),
        lambda x, _: _logit((x - _LOWEST_REDSHIFT) / _REDSHIFT_RANGE),
        lambda y, _: _LOWEST_REDSHIFT + _REDSHIFT_RANGE * torch.sigmoid(y),
    ),
    "environment": Mechanism(_constant(0.2), _constant(0.55), skewness=0.2),
    "stellar_mass": Mechanism(
        lambda parents: 10.3 + 0.15 * (parents["environment"] - 0.2),
        lambda parents: 0.50 - 0.06 * torch.tanh(parents["environment"]),
        skewness=-0.25,
    ),
    "sfr": Mechanism(_star_formation_rate, _star_formation_scatter, skewness=-0.1),
    # Late-type sizes are skewed towards small ones (van der Wel et al. 2014, abstract).
    "size": Mechanism(_size, _size_scatter, skewness=-0.1),
    # 0.28 dex of scatter about the law (de los Reyes & Kennicutt 2019, ApJ 872, 16,
    # doi:10.3847/1538-4357/aafa82, abstract) is 0.2 dex in gas.
    "gas_fraction": Mechanism(
        _gas_log_odds,
        _constant(0.2 * math.log(10)),
        lambda x, _: _logit(x),
        lambda y, _: torch.sigmoid(y),
    ),
    "metallicity": Mechanism(_metallicity, _metallicity_scatter),
    "attenuation": Mechanism(
        _attenuation, _attenuation_scatter, lambda x, _: torch.log(x), lambda y, _: torch.exp(y)
    ),
    "age": Mechanism(_age_location, _constant(0.5), _age_fraction, _age_from_fraction),
    "velocity_dispersion": Mechanism(_velocity_dispersion, _constant(0.07), tail=0.9),
    "black_hole_mass": Mechanism(_black_hole, _black_hole_scatter),
    "ionisation": Mechanism(_ionisation, _constant(0.15)),
}
"""Mechanisms of all nodes but the star formation state, by node name."""
