"""The training table and the structural causal model fitted to it."""
