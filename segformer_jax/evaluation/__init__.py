"""Evaluation: class maps compared with masks, as scores and as a report.

It may import `inference`, `data` and `images`.
"""
