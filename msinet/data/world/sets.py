"""The sets of the world: their palettes and the style of their cameras. The difference between two sets of a kind
is the domain gap."""

from msinet.data.world.cameras import Style
from msinet.data.world.person import COLOURS
from msinet.data.world.vehicle import PAINTS

_BRIGHT = dict.fromkeys(COLOURS, 1.0) | {"white": 2.0, "black": 1.5, "red": 1.6, "sky": 1.4, "yellow": 1.3}
_MUTED = dict.fromkeys(COLOURS, 0.7) | {
    "black": 3.0, "grey": 2.4, "navy": 2.2, "brown": 1.6, "maroon": 1.4, "olive": 1.3, "beige": 1.4,
}  # fmt: skip
_TOWN = dict.fromkeys(PAINTS, 1.0) | {"white": 2.2, "black": 1.8, "silver": 1.8, "grey": 1.4, "yellow": 1.2}
_HIGHWAY = dict.fromkeys(PAINTS, 0.7) | {"white": 2.6, "black": 2.2, "silver": 2.2, "red": 1.2, "brown": 1.0}
_EVERY = dict.fromkeys(COLOURS, 1.0)

#: Numbers are drawn from the position of a style in this table: append, do not reorder.
STYLES: dict[str, Style] = {
    "market1501": Style("person", 6, _BRIGHT, (4, 20), (0.8, 1.1), 0.035, 0.02, (0.3, 0.8), (0.008, 0.02),
                        0.035, 0.30, 0.0, 40),
    "msmt17": Style("person", 15, _MUTED, (8, 34), (0.5, 1.15), 0.055, -0.05, (0.4, 1.2), (0.012, 0.04),
                    0.05, 0.40, 0.25, 45),
    "veri776": Style("vehicle", 20, _TOWN, (12, 32), (0.7, 1.15), 0.035, 0.02, (0.3, 0.9), (0.008, 0.025),
                     0.03, 0.30, 0.0, 40),
    "vehicleid": Style("vehicle", 12, _HIGHWAY, (10, 26), (0.55, 1.2), 0.05, -0.04, (0.4, 1.0), (0.01, 0.035),
                       0.03, 0.12, 0.0, 14, ends=True),
    "pretext person": Style("person", 8, _EVERY, (5, 30), (0.55, 1.15), 0.05, 0.0, (0.3, 1.2), (0.008, 0.035),
                            0.05, 0.30, 0.2, 50),
    "pretext vehicle": Style("vehicle", 8, dict.fromkeys(PAINTS, 1.0), (8, 32), (0.55, 1.15), 0.05, 0.0, (0.3, 1.2),
                             (0.008, 0.035), 0.04, 0.25, 0.0, 50),
}  # fmt: skip
