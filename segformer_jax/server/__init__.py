"""Serves a model by HTTP, with Ray Serve.

It may import `cluster`, `inference` and `images`. The extra `ray` installs Ray.
"""
