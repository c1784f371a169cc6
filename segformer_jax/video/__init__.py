"""Segments films with a `Segmenter`, into an overlay film or a mask for each frame.

It may import `inference` and `images`; PyAV comes with the extra `video`.
"""
