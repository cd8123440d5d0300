"""Tiles: the grid, the streaming writer, verified reading and the global aggregate.

Belongs here: everything between an open observation and the ``tiles`` and ``mosaic`` datasets.
Does not belong here: file formats, encryption, orchestration.
"""
