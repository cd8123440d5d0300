"""Wavelengths and ratios fixed by atomic physics.

Belongs here: numbers from the literature, with unit and source.
Does not belong here: anything fitted to data, or a relation that scatters between galaxies.
"""

from types import MappingProxyType
from typing import Final

__all__ = [
    "H_ALPHA_H_BETA_CASE_B",
    "H_GAMMA_H_BETA_CASE_B",
    "LINE_WAVELENGTHS_ANGSTROM",
    "N_II_6584_6548_RATIO",
    "O_III_5007_4959_RATIO",
    "O_II_3726_WAVELENGTH_ANGSTROM",
    "SPEED_OF_LIGHT_KM_S",
]

SPEED_OF_LIGHT_KM_S: Final = 299_792.458
"""Exact by definition of the metre."""

LINE_WAVELENGTHS_ANGSTROM: Final = MappingProxyType(
    {
        "o_ii_3729": 3729.875,
        "h_gamma": 4341.684,
        "h_beta": 4862.683,
        "o_iii_4959": 4960.295,
        "o_iii_5007": 5008.240,
        "n_ii_6548": 6549.859,
        "h_alpha": 6564.614,
        "n_ii_6584": 6585.268,
        "s_ii_6717": 6718.294,
        "s_ii_6731": 6732.678,
    }
)
"""Rest wavelengths in vacuum [Angstrom], as in the SDSS line list (Bolton et al. 2012, AJ 144, 144,
doi:10.1088/0004-6256/144/5/144). The names quote the customary wavelengths in air."""

O_II_3726_WAVELENGTH_ANGSTROM: Final = 3727.092
"""Vacuum wavelength of the other half of the [O II] doublet [Angstrom]; it is fitted with 3729 and
not reported."""

O_III_5007_4959_RATIO: Final = 2.98
"""Flux ratio of two lines from one upper level: Storey & Zeippen 2000, MNRAS 312, 813,
doi:10.1046/j.1365-8711.2000.03184.x."""

N_II_6584_6548_RATIO: Final = 3.05
"""Flux ratio of two lines from one upper level: Storey & Zeippen 2000 (as above)."""

H_ALPHA_H_BETA_CASE_B: Final = 2.86
"""Intrinsic flux ratio, Case B, 10^4 K, 10^2 cm^-3: Osterbrock & Ferland 2006, Astrophysics of
Gaseous Nebulae and Active Galactic Nuclei, 2nd ed., table 4.4."""

H_GAMMA_H_BETA_CASE_B: Final = 0.468
"""Intrinsic flux ratio, same conditions and source."""
