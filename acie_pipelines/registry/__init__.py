"""Versions of trained models and their audited way to production.

Belongs here: states, the promotion record and its projection onto MLflow aliases.
Does not belong here: training, or deciding whether a model is good.
"""
