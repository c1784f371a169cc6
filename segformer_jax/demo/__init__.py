"""A page in the browser to try models on photos.

It may import `inference` and `images`; Gradio is the extra `demo`.
"""
