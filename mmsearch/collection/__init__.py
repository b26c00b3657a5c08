"""One directory = one searchable corpus: crash-safe, versioned, one writer, any number of readers."""
