"""Encryption of tiles, sealed archives of original files, and the keys for both."""
