"""The graph as a code location of its own, whose groups of tiles take half a second.

Every process of a run loads this file, so that all come to the same groups and leases.
"""

import dagster as dg

from acie_pipelines.crypto import encryption_plan
from acie_pipelines.definitions import build_defs
from acie_pipelines.secure import tasks

encryption_plan._GROUP_CORE_SECONDS = 0.4
tasks.LEASE_SECONDS = 6.0

# Step processes start within a moment where the libraries are loaded already.
LOADED = ["acie_pipelines.definitions", "acie_pipelines.secure.encryption", "zarr"]

encrypt = dg.define_asset_job(
    "encrypt",
    selection=dg.AssetSelection.assets("encrypted_tiles").without_checks(),
    executor_def=dg.multiprocess_executor.configured(
        {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": LOADED}}}
    ),
)
defs = dg.Definitions.merge(build_defs(), dg.Definitions(jobs=[encrypt]))
