"""Retrieval: an index of reference prototypes, asked in the clear or by encrypted vector."""
