"""Turns results into Dagster metadata that people look at.

Belongs here: formatting for the UI. Does not belong here: computing what is shown, or any pixel
value, ciphertext or key.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from acie_pipelines.provenance import Manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "grey_png", "manifest_metadata", "png", "table"]


def png(data: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """Show a small PNG inline.

    Parameters
    ----------
    data
        The encoded image; a few tens of kilobytes, since it is kept in the event log.
    alt
        What it shows, for readers who cannot see it.
    """
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(data).decode()})")


def figure(plot: "Figure", alt: str) -> dg.MarkdownMetadataValue:
    """Show a matplotlib figure inline."""
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=80, bbox_inches="tight")
    return png(buffer.getvalue(), alt)


def grey_png(pixels: NDArray[np.uint8], alt: str) -> dg.MarkdownMetadataValue:
    """Show a greyscale image with north as the array has it: row 0 at the bottom.

    Parameters
    ----------
    pixels
        Shape ``(height, width)``, already stretched to 0-255.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::-1])).save(buffer, format="png", optimize=True)
    return png(buffer.getvalue(), alt)


def table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Show rows of scalars as a table; every row has the same columns, floats have six digits."""
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    name: float(f"{value:.6g}") if isinstance(value, float) else value
                    for name, value in row.items()
                }
            )
            for row in rows
        ]
    )


def manifest_metadata(manifest: Manifest) -> dict[str, Any]:
    """Where a dataset is and which digest proves it."""
    return {
        "manifest_digest": manifest.digest,
        "generation": f"{manifest.kind}/{manifest.key}/{manifest.generation}",
        "hashed_outputs": len(manifest.outputs),
    }
