"""Computing on ciphertexts: roles, layers, statistics, retrieval, workers."""
