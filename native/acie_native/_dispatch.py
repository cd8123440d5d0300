"""Which instruction set path runs.

Belongs here: the override by environment variable and the description of the processor.
Does not belong here: feature detection itself (native/src/isa.rs).
"""

import os
from dataclasses import dataclass

from acie_native import _kernels

__all__ = ["CpuFeatures", "chosen_isa", "cpu_features", "ifma_rate"]

OVERRIDE_VARIABLE = "ACIE_NATIVE_ISA"
PATHS = ("avx512ifma", "adx", "portable")


@dataclass(frozen=True)
class CpuFeatures:
    """What this processor offers and what is used of it.

    Attributes
    ----------
    isa
        The path that new contexts take: "avx512ifma", "adx" or "portable".
    available
        Every path this processor runs, fastest first.
    flags
        Detected processor features that matter to present or planned paths.
    """

    isa: str
    available: tuple[str, ...]
    flags: tuple[str, ...]


def chosen_isa(isa: str | None = None) -> str:
    """Return the path to take: the argument, else ``ACIE_NATIVE_ISA``, else the fastest.

    Raises
    ------
    ValueError
        If the path is unknown or cannot run here; there is no silent fallback.
    """
    asked = isa or os.environ.get(OVERRIDE_VARIABLE)
    if not asked:
        return _kernels.isa_best()
    if not _kernels.isa_available(asked):
        raise ValueError(
            f"instruction set path {asked!r} is not available here; "
            f"choose one of {', '.join(available_paths())} or unset {OVERRIDE_VARIABLE}"
        )
    return asked


def available_paths() -> tuple[str, ...]:
    """Return the paths this processor runs, fastest first."""
    return tuple(path for path in PATHS if _kernels.isa_available(path))


def cpu_features() -> CpuFeatures:
    """Describe the processor and the chosen path.

    Returns
    -------
    CpuFeatures
        With `isa` after any ``ACIE_NATIVE_ISA`` override.
    """
    flags = tuple(_kernels.cpu_flags().split())
    return CpuFeatures(isa=chosen_isa(), available=available_paths(), flags=flags)


def ifma_rate() -> float | None:
    """Measure how many 52-bit multiply-adds of eight lanes one core does in a second.

    Returns
    -------
    float or None
        ``vpmadd52luq`` and ``vpmadd52huq`` on registers per second, in about 20 ms; None where
        the processor has no AVX-512 IFMA.
    """
    return _kernels.ifma_rate() or None
