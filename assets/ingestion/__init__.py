"""Raw observations and catalogues, validated and fingerprinted."""
