"""Tiles as Paillier ciphertexts, and an authenticated archive of the original file."""
