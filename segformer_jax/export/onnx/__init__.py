"""Exports ONNX: writes the network node by node."""
