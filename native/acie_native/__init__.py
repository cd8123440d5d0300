"""Fast kernels on NumPy buffers: encrypted arithmetic, hashes, tile statistics, causal graphs.

Belongs here: operations on plain arrays and numbers whose inner loops are native code.
Does not belong here: keys at rest, file formats, anything that knows of pipelines.
"""

from acie_native._arrays import ints_to_limbs, limbs_to_ints
from acie_native._cipher_array import CipherArray
from acie_native._dag import CausalDag, CycleError
from acie_native._dispatch import CpuFeatures, cpu_features, ifma_rate
from acie_native._entropy import EntropyEstimate, distribution_entropy
from acie_native._minkowski import Separation, causal_separation, minkowski_interval
from acie_native._private_context import PaillierPrivateContext
from acie_native._public_context import PaillierPublicContext
from acie_native._slots import pack_slots, unpack_slots
from acie_native._statistics import TileStatistics, tile_statistics
from acie_native._streebog import Streebog256, Streebog512

__all__ = [
    "CausalDag",
    "CipherArray",
    "CpuFeatures",
    "CycleError",
    "EntropyEstimate",
    "PaillierPrivateContext",
    "PaillierPublicContext",
    "Separation",
    "Streebog256",
    "Streebog512",
    "TileStatistics",
    "causal_separation",
    "cpu_features",
    "distribution_entropy",
    "ifma_rate",
    "ints_to_limbs",
    "limbs_to_ints",
    "minkowski_interval",
    "pack_slots",
    "tile_statistics",
    "unpack_slots",
]
