"""The kinds of files that are written for a picture, and their names' endings."""

from typing import Literal

Output = Literal["overlay", "mask", "npy", "json"]
ENDINGS: dict[str, str] = {  # the end of a result file's name, by kind
    "overlay": ".overlay.png",
    "mask": ".mask.png",
    "npy": ".npy",
    "json": ".json",
}
