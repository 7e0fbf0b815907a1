"""Styles of the rendered sets: palettes and cameras. Two styles of one kind differ by a domain gap."""

from dataclasses import dataclass

from msinet.synthetic.person import COLOURS
from msinet.synthetic.vehicle import PAINTS


@dataclass(frozen=True)
class Style:
    """Palette of a set, and properties that its cameras share."""

    kind: str
    """person or vehicle"""
    cameras: int
    palette: dict[str, float]
    """weight of each colour among the set's identities"""
    elevation: tuple[float, float]
    """degrees above the horizon, lowest and highest"""
    light: tuple[float, float]
    """exposure of the darkest and of the brightest camera"""
    cast: float
    """standard deviation of the logarithm of each colour channel's gain"""
    warmth: float
    """above 0: yellow cast; below 0: blue cast"""
    blur: tuple[float, float]
    """pixels of an image 128 high"""
    noise: tuple[float, float]
    """standard deviation in display units"""
    shift: float
    """standard deviation of the framing error, as a share of the frame"""
    occluded: float
    """share of images with an occluder"""
    indoor: float
    """share of indoor cameras, with even light"""
    spread: float
    """degrees: standard deviation of the view around a camera's two main directions"""
    off_axis: float | None = None
    """degrees: standard deviation of a camera's direction from the road's axis; None: any direction"""


_BRIGHT = dict.fromkeys(COLOURS, 1.0) | {"white": 2.0, "black": 1.5, "red": 1.6, "sky": 1.4, "yellow": 1.3}
_MUTED = dict.fromkeys(COLOURS, 0.7) | {
    "black": 2.2,
    "grey": 1.8,
    "navy": 1.8,
    "brown": 1.4,
    "maroon": 1.3,
    "olive": 1.2,
    "beige": 1.3,
}
_TOWN = dict.fromkeys(PAINTS, 1.0) | {"white": 1.5, "black": 1.3, "silver": 1.3, "grey": 1.2}
_HIGHWAY = dict.fromkeys(PAINTS, 0.8) | {"white": 1.8, "black": 1.6, "silver": 1.6, "red": 1.2, "brown": 1.2}
_EVERY = dict.fromkeys(COLOURS, 1.0)

#: Seeds use the position of a style in this table: append, do not reorder.
STYLES: dict[str, Style] = {
    "market1501": Style(
        "person",
        cameras=6,
        palette=_BRIGHT,
        elevation=(4, 20),
        light=(0.8, 1.1),
        cast=0.035,
        warmth=0.02,
        blur=(0.3, 0.8),
        noise=(0.008, 0.02),
        shift=0.03,
        occluded=0.22,
        indoor=0.0,
        spread=40,
    ),
    "msmt17": Style(
        "person",
        cameras=15,
        palette=_MUTED,
        elevation=(8, 30),
        light=(0.65, 1.15),
        cast=0.04,
        warmth=-0.06,
        blur=(0.4, 0.9),
        noise=(0.01, 0.025),
        shift=0.03,
        occluded=0.24,
        indoor=0.25,
        spread=40,
    ),
    "veri776": Style(
        "vehicle",
        cameras=20,
        palette=_TOWN,
        elevation=(12, 32),
        light=(0.7, 1.15),
        cast=0.035,
        warmth=0.02,
        blur=(0.3, 0.8),
        noise=(0.008, 0.02),
        shift=0.025,
        occluded=0.16,
        indoor=0.0,
        spread=30,
        off_axis=30,
    ),
    "vehicleid": Style(
        "vehicle",
        cameras=12,
        palette=_HIGHWAY,
        elevation=(10, 26),
        light=(0.55, 1.2),
        cast=0.05,
        warmth=-0.04,
        blur=(0.4, 1.0),
        noise=(0.01, 0.03),
        shift=0.03,
        occluded=0.1,
        indoor=0.0,
        spread=14,
        off_axis=8,
    ),
    "pretext person": Style(
        "person",
        cameras=8,
        palette=_EVERY,
        elevation=(5, 30),
        light=(0.55, 1.15),
        cast=0.05,
        warmth=0.0,
        blur=(0.3, 1.2),
        noise=(0.008, 0.03),
        shift=0.05,
        occluded=0.25,
        indoor=0.2,
        spread=50,
    ),
    "pretext vehicle": Style(
        "vehicle",
        cameras=8,
        palette=dict.fromkeys(PAINTS, 1.0),
        elevation=(8, 32),
        light=(0.55, 1.15),
        cast=0.05,
        warmth=0.0,
        blur=(0.3, 1.2),
        noise=(0.008, 0.03),
        shift=0.04,
        occluded=0.22,
        indoor=0.0,
        spread=50,
    ),
}
