"""The query engine: a query becomes vectors, vectors become candidates, candidates become hits."""
