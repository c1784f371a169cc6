"""Class names and colours of the data sets that SegFormers are trained on.

Names are in the order of the class indices, as in the models on the hub. Colours are those of the
data sets' own tools and pictures: cityscapesScripts, ADE20K's 150-class benchmark, Pascal VOC's
rule, and SegNet's for CamVid. COCO-Stuff's 171 classes have no established colours, and get those
of Pascal VOC's rule. `scene` holds the classes of scene-b0: 31 of ADE20K's and "other". 20 of them
keep ADE20K's colours, road has Cityscapes', and the others have new ones, because theirs were too
similar to one of these to be told apart in a legend.
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set: names by index, and an RGB colour for each."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]


def voc_colour(index: int) -> tuple[int, int, int]:
    """Returns Pascal VOC's colour of a class.

    Bits 0, 1 and 2 of the index are the highest bits of red, green and blue, bits 3, 4 and 5 the
    next ones, and so on.
    """
    rgb = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            rgb[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return rgb[0], rgb[1], rgb[2]


def distinct_names(id2label: Mapping[int, str]) -> dict[int, str]:
    """The names by index; those that several classes have are told apart: "other (7)"."""
    often = Counter(id2label.values())
    return {
        index: name if often[name] == 1 else f"{name} ({index})" for index, name in id2label.items()
    }


def palette_for(id2label: Mapping[int, str]) -> UInt8[np.ndarray, "labels 3"]:
    """Returns a colour for every class index up to the largest, the usual one for known names.

    The data set that has most of the names gives its colours, so that its own classes look as
    published. Other names are looked up in the other data sets, and the rest get colours by Pascal
    VOC's rule; neither repeats a colour. Names are compared without case, spaces and punctuation.
    """
    return _palette(tuple(id2label.items())).copy()


@lru_cache(maxsize=16)  # all pictures of a folder need the same palette
def _palette(names: tuple[tuple[int, str], ...]) -> UInt8[np.ndarray, "labels 3"]:
    id2label = dict(names)
    best = max(CLASS_SETS.values(), key=lambda classes: _shared(classes, id2label))
    colours: dict[int, tuple[int, int, int]] = {}
    for classes in (best, *(other for other in CLASS_SETS.values() if other is not best)):
        known = dict(zip(map(_key, classes.names), classes.colours, strict=True))
        for index, name in id2label.items():
            own = known.pop(_key(name), None) if index not in colours else None
            if own is not None and (classes is best or own not in colours.values()):
                colours[index] = own
    free = (own for own in map(voc_colour, itertools.count(1)) if own not in colours.values())
    indices = range(max(id2label, default=-1) + 1)
    rows = [colours[index] if index in colours else next(free) for index in indices]
    return np.array(rows, np.uint8).reshape(-1, 3)


def _shared(classes: ClassSet, id2label: Mapping[int, str]) -> int:
    return len(set(map(_key, classes.names)) & set(map(_key, id2label.values())))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _classes(names: str, colours: str = "", *, first: int = 0) -> ClassSet:
    """Parses names and hexadecimal colours; the default is Pascal VOC's colours from `first` on."""
    listed = tuple(name.strip() for name in names.replace("\n", " ").split(","))
    if not colours:
        return ClassSet(listed, tuple(voc_colour(first + i) for i in range(len(listed))))
    rgb = (bytes.fromhex(colour) for colour in colours.split())
    return ClassSet(listed, tuple((r, g, b) for r, g, b in rgb))


CLASS_SETS: dict[str, ClassSet] = {  # `palette_for` prefers the first of equally good ones
    "cityscapes": _classes(
        """
road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain,
sky, person, rider, car, truck, bus, train, motorcycle, bicycle
""",
        """
804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000
00008e 000046 003c64 005064 0000e6 770b20
""",
    ),
    "ade20k": _classes(
        """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink,
skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill,
bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade
machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth,
television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman,
bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food,
step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket,
sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
monitor, bulletin board, shower, radiator, glass, clock, flag
""",
        """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
""",
    ),
    "pascal_voc": _classes(
        """
background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
""",
    ),
    "camvid": _classes(
        """
sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist
""",
        """
808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0
""",
    ),
    "coco_stuff": _classes(
        """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports
ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine
glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
vase, scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge,
building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth,
clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble,
floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit,
furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic,
platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea,
shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table,
tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel,
wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
""",
        first=1,  # colour 0, black, is for a background, which index 0 is not
    ),
    "scene": _classes(
        """
other, wall, building, sky, floor, tree, ceiling, road, bed, window, grass, cabinet, sidewalk,
person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
house, sea, mirror, rug, field, armchair
""",
        """
404040 787878 b47878 06e6e6 503232 04c803 787850 804080 cc05ff e6e6e6 04fa07 a078dc ebff07
96053d 785000 b4823c ff0652 8fff8c 789600 ff3307 cc4603 0066c8 4696dc ff8ca0 007878 5a0082
ff09e0 0907e6 b4beff ffb464 7009ff 08ffd6
""",
    ),
}
