"""Models of spectra and stamps: amortised posterior, refinement, decoders, classifier, engines.

Belongs here: what is inferred from light. Does not belong here: mechanisms between properties
(`acie_pipelines.causal`), the physics of light (`acie_pipelines.simulation`), measurement.
"""
