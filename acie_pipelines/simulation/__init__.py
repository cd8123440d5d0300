"""Simulated galaxies whose true counterfactuals are known.

Belongs here: mechanisms from the literature, renderers of spectra, photometry and stamps, and the
writer of simulated data sets. Does not belong here: anything fitted to data, or any inference.

The modules build on torch and are imported lazily.
"""
