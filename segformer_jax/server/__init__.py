"""Ray Serve: a model behind HTTP.

It may import `cluster`, `inference` and `images`; Ray is the extra `ray`.
"""
