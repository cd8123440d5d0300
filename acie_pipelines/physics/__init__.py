"""Laws of atomic physics, line measurement and residuals against those laws.

Belongs here: constants with sources, the line fit, tests that no galaxy may fail.
Does not belong here: anything learned from data.
"""
