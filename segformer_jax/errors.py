"""The exceptions of this library."""


class WeightsError(ValueError):
    """A checkpoint that is missing, damaged, refused, or does not fit the model."""


class ImageError(ValueError):
    """A picture that can't be read, or is refused, for example because it is too large."""


class ImageWarning(UserWarning):
    """A picture that was read, but may not look as it was meant to."""
