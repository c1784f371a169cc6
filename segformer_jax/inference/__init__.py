"""A model in use: folded, compiled, on all devices; pictures in, class maps out."""
