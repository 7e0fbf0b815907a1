"""Decoding of image files with Pillow. Importing this module does not import torch."""

from pathlib import Path

import numpy as np
import PIL.Image

from msinet.errors import DataError

#: Height x width x 3, uint8.
Pixels = np.ndarray
#: Errors of Pillow for files that it cannot read; AVIF files raise RuntimeError.
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, PIL.Image.DecompressionBombError)
#: Increase this number when decoded pixels change, so that old caches are not used.
DECODER = 2


def decode(path: Path, height: int | None = None, width: int | None = None) -> Pixels:
    """An image file as (height, width, 3) uint8 RGB, resized bilinearly if height and width are given.

    The EXIF orientation is applied. 16-bit pixels are divided by 257. Of several frames the first is used.

    Raises:
        DataError: missing, truncated, not an image, or with pixels of more than 16 bits.
    """
    try:
        with PIL.Image.open(path) as image:
            image.info.pop("transparency", None)  # not part of RGB; Pillow would warn about its loss
            rgb = _upright(_eight_bits(image).convert("RGB"), image)
            if height is not None and width is not None:
                rgb = rgb.resize((width, height), PIL.Image.Resampling.BILINEAR)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be decoded ({error}); fetch it again or remove it") from error
    return np.asarray(rgb)


def decode_or_note(path: Path, height: int, width: int, problems: list[str]) -> Pixels | None:
    """The decoded image; None if that fails, with the reason appended to `problems`."""
    try:
        return decode(path, height, width)
    except DataError as error:
        problems.append(str(error))
        return None


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image as `decode` gives it, from the file's header.

    Raises:
        DataError: missing, or not an image.
    """
    try:
        with PIL.Image.open(path) as image:
            if image.format == "TIFF":  # some versions of Pillow turn TIFFs themselves
                return decode(path).shape[:2]
            return (image.width, image.height) if _turn(image) in SIDEWAYS else (image.height, image.width)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch it again or remove it") from error


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image with at most 8 bits per channel. Pillow's own conversion sets all larger values to 255.

    Raises:
        ValueError: more than 16 bits, whose range is not known.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # those hold 16 bits
        raise ValueError(f"pixels of mode {image.mode}, whose range is not known; convert it to 8 bits")
    return PIL.Image.fromarray(np.round(pixels / 257).astype(np.uint8))


#: Transposition by the EXIF tag of the orientation, 274.
ORIENTATION = 0x0112
TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
#: Those that exchange height and width.
SIDEWAYS = {TURNS[orientation] for orientation in (5, 6, 7, 8)}


def _upright(pixels: PIL.Image.Image, file: PIL.Image.Image) -> PIL.Image.Image:
    """Apply the file's EXIF orientation to the pixels."""
    turn = _turn(file)
    return pixels if turn is None else pixels.transpose(turn)


def _turn(file: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """The transposition of the file's EXIF orientation; a damaged tag is ignored."""
    try:
        return TURNS.get(file.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data raise anything from struct.error to TypeError
        return None
