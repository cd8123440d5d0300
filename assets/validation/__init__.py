"""Whether a fitted model may be used: held-out likelihood, calibration and physics."""
