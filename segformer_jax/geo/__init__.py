"""Segments rasters larger than memory: reads windows through GDAL and keeps the georeference.

It may import `inference` and `images`; rasterio comes with the extra `geo`.
"""
