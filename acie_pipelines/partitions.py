"""How the graph is partitioned: by observation, never by tile.

Belongs here: partition definitions. Does not belong here: who adds keys (the sensor and the CLI).
"""

import dagster as dg

__all__ = ["observation_partitions"]

observation_partitions = dg.DynamicPartitionsDefinition(name="observation")
