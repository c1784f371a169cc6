"""`Format`, a format of data sets, and `Asked`, the arguments of its reader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from segformer_jax.data.dataset import Dataset


@dataclass(frozen=True)
class Asked:
    """The arguments of a format's reader.

    Attributes:
        split: its customary name or the data set's own; None: the folder holds one split.
        reduce_zero_label: ignore value 0 of the masks and lower the others by one.
        teacher: the classes of a model that replaces missing masks.
        mask_suffix: what a mask's name has after its picture's, such as "_mask".
    """

    split: str | None = None
    reduce_zero_label: bool = False
    teacher: Mapping[int, str] | None = None
    mask_suffix: str = ""


@dataclass(frozen=True)
class Format:
    """A format of data sets: how to detect it, how to read it, and its description for messages.

    Attributes:
        fits: whether a folder has the format's folders and files.
        read: the data set in a folder that fits; raises a ValueError.
        looks: what `fits` looks for, in words.
        is_certain: whether a folder that fits is read so by "auto"; it may look into files.
    """

    fits: Callable[[Path], bool]
    read: Callable[[Path, Asked], Dataset]
    looks: str
    is_certain: Callable[[Path], bool] = lambda root: True
