"""Recipe of the cross-attention reranker that ships: image-text matching on the frozen tokens of `compact`."""
