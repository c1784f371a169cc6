"""A page in the browser to try models on photos.

It may import `inference` and `images`. The extra `demo` installs Gradio.
"""
