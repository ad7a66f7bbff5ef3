"""The architecture in torch: encoders, mixture of experts, action codec, quantization."""
