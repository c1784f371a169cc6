"""The names and colours of a model's classes, as exported files hold them."""

from collections.abc import Mapping

from segformer_jax.images.labels import distinct_names, palette_for


def labels_of(id2label: Mapping[int, str]) -> list[dict[str, str]]:
    """Returns the `label` and `colour`, "#rrggbb", of every value of a class map.

    A model of one label has class maps of two values, as `Segmenter.id2label`.
    """
    if len(id2label) == 1:
        id2label = {0: "background", 1: next(iter(id2label.values()))}
    names = distinct_names(id2label)
    return [
        {"label": names.get(index, f"LABEL_{index}"), "colour": f"#{colour.tobytes().hex()}"}
        for index, colour in enumerate(palette_for(id2label))
    ]
