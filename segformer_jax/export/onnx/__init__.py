"""ONNX: the network written node by node."""
