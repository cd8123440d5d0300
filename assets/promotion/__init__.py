"""The model's way through the registry, one audited move per asset."""
