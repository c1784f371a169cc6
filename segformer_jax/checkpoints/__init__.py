"""Loads and saves weights, without PyTorch and without running code from a checkpoint.

It may import `models`.
"""
