"""Exports LiteRT (TensorFlow Lite): converts StableHLO to a .tflite file."""
