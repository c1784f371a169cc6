"""The readers that are tried, a file each."""

from tests.fuzz.readers.bodies import BODIES
from tests.fuzz.readers.class_files import CLASS_FILES
from tests.fuzz.readers.coco import COCO
from tests.fuzz.readers.labelme import LABELME
from tests.fuzz.readers.pictures import PICTURES
from tests.fuzz.readers.safetensors import SAFETENSORS
from tests.fuzz.readers.torch_files import TORCH_FILES

READERS = {
    reader.name: reader
    for reader in (SAFETENSORS, TORCH_FILES, PICTURES, CLASS_FILES, COCO, LABELME, BODIES)
}
