"""The kinds of files that are written for a picture, and their names' endings."""

from typing import Literal

Output = Literal["overlay", "mask", "npy", "json", "polygons", "gpkg", "coco", "labelme"]
ENDINGS: dict[str, str] = {  # the end of a result file's name, by kind
    "overlay": ".overlay.png",
    "mask": ".mask.png",
    "npy": ".npy",
    "json": ".json",
    "polygons": ".geojson",
    "coco": ".coco.json",
    "labelme": ".labelme.json",
}
RASTER_ENDINGS: dict[str, str] = {  # the same for rasters
    "overlay": ".overlay.tif",
    "mask": ".mask.tif",
    "json": ".json",
    "polygons": ".geojson",
    "gpkg": ".gpkg",
}
