"""The files that are written for a picture."""

from typing import Literal

Output = Literal["overlay", "mask", "npy", "json"]
ENDINGS: dict[str, str] = {  # what the names of results end in
    "overlay": ".overlay.png",
    "mask": ".mask.png",
    "npy": ".npy",
    "json": ".json",
}
