"""Pictures with masks: data sets of any format, checked, augmented and put into batches.

It may import `images` and `bilinear`; it does not use JAX.
"""
