"""Patch size of transformers. Does not import torch."""

#: Images of fewer rows get small patches: at patch size 16, 64x32 has only 8 patches and 256x128 has 128.
SMALL = 128


def patch_side(height: int) -> int:
    """Side of a patch for images of that height, in pixels."""
    return 16 if height >= SMALL else 8
