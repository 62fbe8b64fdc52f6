"""basisprune: smaller, faster ONNX image classifiers after training."""
