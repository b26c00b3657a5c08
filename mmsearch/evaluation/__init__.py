"""Retrieval evaluation: how well an encoder, or a collection through its index, finds what belongs together."""
