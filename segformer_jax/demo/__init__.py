"""A page in the browser to try models on photos.

It may import `inference`, `images` and `view`. The extra `demo` installs Gradio.
"""
