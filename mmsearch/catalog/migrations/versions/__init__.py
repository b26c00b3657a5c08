"""The schemas, one after the other; each is frozen once released."""
