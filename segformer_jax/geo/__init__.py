"""Rasters larger than memory: read in windows through GDAL, written with their georeference.

It may import `inference` and `images`; rasterio is the extra `geo`.
"""
