"""The small real inputs that ship with the package; see the PROVENANCE.md beside each.

Belongs here: where they are. Does not belong here: what is done with them.
"""

from pathlib import Path

__all__ = ["CATALOGUE", "GALAXY_IMAGES", "OBSERVATIONS", "sample_observations"]

_ROOT = Path(__file__).parent / "sample_data"

CATALOGUE = _ROOT / "catalogue" / "emission_line_mass.csv.gz"
GALAXY_IMAGES = _ROOT / "galaxy_images"
OBSERVATIONS = _ROOT / "observations"


def sample_observations() -> list[Path]:
    """Bundled observation files, sorted by name."""
    return sorted(p for p in OBSERVATIONS.iterdir() if p.name != "PROVENANCE.md")
