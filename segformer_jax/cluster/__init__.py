"""Segments pictures of any store on all workers of a cluster, with Ray Data.

It may import `inference` and `images`. The extra `ray` installs Ray.
"""
