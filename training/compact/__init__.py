"""Recipe of the encoder `compact`: towers whose last blocks are tuned, trained heads, small ONNX files."""
