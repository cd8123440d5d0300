"""Observation files: reading, validation, identity, storage and quarantine.

Belongs here: everything between a file in the inbox and a verified copy with a manifest.
Does not belong here: tiles, or any asset. Import the modules; this package re-exports nothing, so
that one format's library is loaded only where it is used.
"""
