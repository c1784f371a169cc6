"""Serves a segmenter: on many machines, by HTTP, and as a page in the browser."""
