"""What exists: the lineage graph, one subpackage per group of the Dagster UI."""
