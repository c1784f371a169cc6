"""Ray Data: pictures of any store segmented on all workers of a cluster.

It may import `inference` and `images`; Ray is the extra `ray`.
"""
