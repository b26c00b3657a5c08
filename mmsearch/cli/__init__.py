"""The command line: thin callers of the library. Results go to stdout, everything else to stderr."""
