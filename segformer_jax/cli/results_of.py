"""The pictures of a `segment` command, and where the results of each go."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.result_files import ENDINGS, RASTER_ENDINGS
from segformer_jax.inference.segmentation import Segmentation

INSTEAD = {  # of kinds that one sort of pictures does not have
    "npy": "mask writes a TIFF of the same numbers",
    "gpkg": "polygons writes them as GeoJSON, in pixels",
    "coco": "polygons or gpkg writes them with their coordinates",
    "labelme": "polygons or gpkg writes them with their coordinates",
}


@dataclass(frozen=True)
class Picture:
    """A picture of a command.

    Attributes:
        file: path of the picture.
        name: of its results, without their endings; it may hold folders: "a/b".
        raster: whether GDAL reads it, and its results keep its georeference.
    """

    file: Path
    name: str
    raster: bool = False

    def results(self, request: Request) -> dict[str, Path]:
        """Returns the path of each requested kind of result.

        Raises:
            ValueError: this sort of pictures does not have one of these kinds.
        """
        endings = RASTER_ENDINGS if self.raster else ENDINGS
        for kind in request.outputs:
            if kind not in endings:
                raise ValueError(
                    f"--outputs must not have {kind} for a {'raster' if self.raster else 'photo'}, "
                    f"got {self.file}: --outputs {INSTEAD[kind]}"
                )
        return {kind: request.out_dir / f"{self.name}{endings[kind]}" for kind in request.outputs}

    def save(self, result: Segmentation, request: Request) -> dict[str, Path]:
        """Writes the results of a photo, and returns their files."""
        files = self.results(request)
        for kind, file in files.items():
            name = f"{self.name}{self.file.suffix}"
            if kind == "labelme":  # which opens the picture from there
                name = _from(file.parent, self.file)
            result.save(
                file,
                alpha=request.alpha,
                min_area=request.min_area,
                simplify=request.simplify,
                picture=name,
            )
        return files

    def all_results(self, request: Request) -> list[Path]:
        """Returns the paths of all kinds of results, those of photos and those of rasters."""
        endings = dict.fromkeys((*ENDINGS.values(), *RASTER_ENDINGS.values()))
        return [request.out_dir / f"{self.name}{ending}" for ending in endings]


def _from(folder: Path, file: Path) -> str:
    """Returns the relative path from a folder to a file; the absolute one on another drive."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:
        return file.absolute().as_posix()


def check_names(pictures: Iterable[Picture]) -> None:
    """Raises a ValueError if two pictures would have results of the same name."""
    by_name: dict[str, Path] = {}
    for picture in pictures:
        if picture.name in by_name:
            raise ValueError(
                f"{by_name[picture.name]} and {picture.file} would both be written as "
                f"{picture.name}.*: segment them into two folders (--out-dir)"
            )
        by_name[picture.name] = picture.file
