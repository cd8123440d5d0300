"""Structural causal models: graphs, invertible mechanisms, interventions and counterfactuals.

Belongs here: what is true of any structural causal model with continuous variables.
Does not belong here: tables, stores, tracking (see `acie_pipelines.training`) or laws of physics.
"""
