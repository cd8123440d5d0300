"""Observations as verified Zarr tiles with statistics, and what they add up to."""
