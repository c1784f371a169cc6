"""Weights of scene-b0, in Hugging Face's layout, beside this file (CC BY-NC 4.0)."""
