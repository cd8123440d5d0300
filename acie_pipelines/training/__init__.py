"""From catalogue and sealed observations to a fitted causal model.

Belongs here: the catalogue dataset, the training table, the fit of the ``scm`` dataset, tracking.
Does not belong here: the model itself (`acie_pipelines.causal`), its validation
(`acie_pipelines.evaluation`) or its promotion (`acie_pipelines.registry`).
"""
