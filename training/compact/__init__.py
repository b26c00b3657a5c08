"""Recipe of the encoder `compact:v1`: frozen towers, trained heads, small ONNX files."""
