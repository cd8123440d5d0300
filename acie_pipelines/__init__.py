"""How ACIE's assets are computed and run; `assets` says which ones exist."""

__all__ = ["__version__"]

__version__ = "0.1.0"
