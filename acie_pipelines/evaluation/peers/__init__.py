"""What a researcher would use otherwise, each behind the same two calls.

Belongs here: one module per peer with ``NAME``, ``DISTRIBUTION``, ``PACKAGE`` and
``fit(problem, *, seed) -> Answer``; packages beyond our own are imported inside `fit`.
Does not belong here: scores.
"""
