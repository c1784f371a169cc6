"""Films: frames through a `Segmenter`, into an overlay film or a mask for each frame.

It may import `inference` and `images`; PyAV is the extra `video`.
"""
