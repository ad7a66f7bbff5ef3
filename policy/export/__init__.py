"""From a checkpoint to a sealed 8-bit ONNX bundle, compared number by number."""
