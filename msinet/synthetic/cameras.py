"""Cameras of a set, and the backdrops of their images."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter

from msinet.synthetic.person import COLOURS
from msinet.synthetic.sets import STYLES
from msinet.synthetic.solids import Colour

#: Pixels of a backdrop.
BACKDROP_SIZE = (640, 300)
#: Row at which its ground begins.
HORIZON = 106


@dataclass(frozen=True)
class Camera:
    """One camera of a set."""

    number: int
    directions: tuple[float, float]
    """the two main directions of view in degrees; 0: from the front"""
    spread: float
    elevation: float
    distance: float
    """metres"""
    light: float
    sun: float
    """azimuth of the sun relative to the camera, degrees"""
    direct: float
    """share of the light that comes from the sun"""
    gains: Colour
    """of the red, green and blue channels"""
    blur: float
    noise: float
    quality: int
    """of the JPEG files"""
    shift: float
    zoom: float
    """size of the frame over that of the body"""
    resolution: float
    """of the sensor, as a share of the image's pixels"""
    occluded: float
    indoor: bool
    backdrop: int
    """seed of the backdrop"""


@lru_cache(maxsize=128)
def draw_camera(style_name: str, number: int, seed: int) -> Camera:
    """Camera `number` (from 1) of a set; a pure function of its arguments."""
    style = STYLES[style_name]
    rng = np.random.default_rng((seed, 71, list(STYLES).index(style_name), number))
    main = float(rng.uniform(0, 360))
    if style.off_axis is not None:
        main = float(rng.choice((0.0, 180.0)) + rng.normal(0, style.off_axis))
    indoor = bool(rng.random() < style.indoor)
    gains = np.exp(rng.normal(0, style.cast, 3) + style.warmth * np.array((1, 0.1, -1.1)))
    gains /= gains.mean()
    return Camera(
        number=number,
        directions=(main % 360, (main + 180) % 360),
        spread=style.spread,
        elevation=float(rng.uniform(*style.elevation)),
        distance=float(rng.uniform(5, 11) if style.kind == "person" else rng.uniform(9, 18)),
        light=float(rng.uniform(*style.light)),
        sun=float(rng.uniform(-150, 150)),
        direct=0.15 if indoor else float(rng.uniform(0.25, 0.65)),
        gains=(float(gains[0]), float(gains[1]), float(gains[2])),
        blur=float(rng.uniform(*style.blur)),
        noise=float(rng.uniform(*style.noise)),
        quality=int(rng.integers(70, 93)),
        shift=style.shift * float(rng.uniform(0.6, 1.4)),
        zoom=float(rng.uniform(1.02, 1.2)),
        resolution=float(rng.uniform(0.6, 1.0)),
        occluded=style.occluded * float(rng.uniform(0.4, 1.6)),
        indoor=indoor,
        backdrop=int(rng.integers(2**31)),
    )


@lru_cache(maxsize=64)
def backdrop(kind: str, indoor: bool, seed: int) -> PIL.Image.Image:
    """The backdrop of a camera's images: walls or streets with clutter in the colours of garments."""
    rng = np.random.default_rng((seed, 5))
    width, height = BACKDROP_SIZE
    image = PIL.Image.new("RGB", BACKDROP_SIZE)
    pen = PIL.ImageDraw.Draw(image)
    names = list(COLOURS)

    def mixed(low: float = 0.0, high: float = 1.0, grey: float = 0.5) -> tuple[int, int, int]:
        colour = np.array(COLOURS[names[rng.integers(len(names))]])
        rgb = colour * (1 - grey) + grey * rng.uniform(low, high)
        return tuple(int(c) for c in (255 * rgb).clip(0, 255))  # type: ignore[return-value]

    ground = mixed(0.3, 0.75, 0.85)
    pen.rectangle((0, 0, width, height), fill=mixed(0.35, 0.85, 0.75))
    # A row of facades with windows or shelves.
    x = 0
    while x < width:
        w = int(rng.integers(50, 160))
        top = 0 if indoor else int(rng.integers(0, 50))
        pen.rectangle((x, top, x + w, HORIZON + 7), fill=mixed(0.25, 0.9, 0.6))
        step_x, step_y = rng.integers(11, 33, 2)
        pane = mixed(0.1, 0.9, 0.55)
        if rng.random() < 0.75:
            for px in range(x + 4, x + w - 6, int(step_x)):
                for py in range(top + 4, HORIZON - 7, int(step_y)):
                    pen.rectangle((px, py, px + step_x * 0.6, py + step_y * 0.62), fill=pane)
        x += w
    # The ground and its joints or markings.
    pen.rectangle((0, HORIZON + 6, width, height), fill=ground)
    line = tuple(int(c * rng.uniform(0.75, 1.2)) for c in ground)
    vanish = int(rng.integers(0, width))
    if rng.random() < 0.75:
        for i in range(-30, 31):
            pen.line((vanish, HORIZON - 42, vanish + i * int(rng.integers(36, 43)), height), fill=line)
        y = float(HORIZON + 9)
        while y < height:
            pen.line((0, y, width, y), fill=line)
            y *= 1.06
    if kind == "vehicle":
        for i in rng.integers(-8, 9, 3):
            pen.line((vanish, HORIZON - 28, vanish + int(i) * 78, height), fill=(225, 225, 215), width=4)
    # Clutter: doors, posters, parked things, plants.
    for _ in range(int(rng.integers(14, 30))):
        x, y = int(rng.integers(0, width)), int(rng.integers(HORIZON - 50, HORIZON + 50))
        w, h = int(rng.integers(6, 43)), int(rng.integers(14, 64))
        fill = mixed(0.2, 0.8, rng.uniform(0.0, 0.5))
        if rng.random() < 0.25:
            pen.ellipse((x, y - h, x + w * 1.3, y), fill=(int(30 + 40 * rng.random()), int(70 + 70 * rng.random()), 40))
        else:
            pen.rectangle((x, y - h, x + w, y), fill=fill)
            if rng.random() < 0.4:
                pen.rectangle((x + w // 4, y - h * 3 // 4, x + w * 3 // 4, y - h // 3), fill=mixed(0, 1, 0.2))
    for _ in range(int(rng.integers(3, 8))):
        x = int(rng.integers(0, width))
        pen.rectangle((x, 0, x + int(rng.integers(2, 10)), int(rng.integers(HORIZON, HORIZON + 64))), fill=mixed())
    image = image.filter(PIL.ImageFilter.GaussianBlur(0.9))
    rough = PIL.Image.fromarray(rng.integers(0, 256, (height // 2, width // 2), dtype=np.uint8))
    rough = rough.resize(BACKDROP_SIZE, PIL.Image.Resampling.BICUBIC).convert("RGB")
    return PIL.Image.blend(image, rough, 0.10)
