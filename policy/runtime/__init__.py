"""A bundle in ONNX Runtime, and the words that it reads; neither torch nor MuJoCo."""
