"""Renders one image: backdrop, shadow, body, occluder and sensor."""

import io
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter

from msinet.synthetic import person, vehicle
from msinet.synthetic.cameras import BACKDROP_SIZE, HORIZON, Camera, backdrop
from msinet.synthetic.person import COLOURS, Person
from msinet.synthetic.solids import F32, NOTHING, Body, Light, Surface, View, cast, look_at, project, shade
from msinet.synthetic.vehicle import PAINTS, Vehicle

Factors = dict[str, Any]
Identity = Person | Vehicle
#: Occluders by kind of body.
OCCLUDERS = {
    "person": ("pole", "bin", "hedge", "barrier", "person", "board"),
    "vehicle": ("pole", "tree", "hedge", "barrier", "person", "car"),
}


def photograph(
    identity: Identity,
    camera: Camera,
    rng: np.random.Generator,
    height: int,
    *,
    square: bool = False,
    junk: bool = False,
) -> tuple[bytes, Factors]:
    """Render one image, as a JPEG file and its factors.

    Args:
        identity: person or vehicle in the image.
        camera: camera that takes the image.
        rng: source of all random numbers.
        height: of images of persons, which are half as wide; vehicle images have about height x height pixels and the
            proportions of the body.
        square: make the frame square for both kinds.
        junk: misplace the frame, as in a failed detection.
    """
    human = isinstance(identity, Person)
    yaw = float(rng.choice(camera.directions, p=(0.6, 0.4)) + rng.normal(0, camera.spread)) % 360
    elevation = float(np.clip(camera.elevation + rng.normal(0, 2), 2, 50))
    distance = camera.distance * float(rng.uniform(0.75, 1.35))
    body = person.build(identity, person.draw_pose(rng)) if isinstance(identity, Person) else vehicle.build(identity)
    middle = (0.0, 0.0, 0.9 if human else 0.7)
    eye, axes = look_at(middle, np.radians(yaw), np.radians(elevation), distance)

    zoom = camera.zoom * float(rng.uniform(0.94, 1.1))
    shift = rng.normal(0, camera.shift, 2)
    if junk:
        zoom *= float(rng.choice((0.45, 1.9)))
        shift = rng.uniform(0.3, 0.5, 2) * rng.choice((-1, 1), 2)
    view = _frame(body, eye, axes, height, "square" if square else "tall" if human else "fit", zoom, shift)

    light = camera.light * float(np.exp(rng.normal(0, 0.10)))
    sun_at = np.radians(yaw + camera.sun + rng.normal(0, 10))
    sun = np.array((np.cos(sun_at) * 0.75, np.sin(sun_at) * 0.75, 0.66), F32)
    lamp = Light(sun, 1.5 * camera.direct, 0.95 - 0.55 * camera.direct)

    # Linear colours of backdrop, shadow, body and occluder.
    pixels = _background(camera, view, rng, human)
    pixels *= _shadow(view, sun, camera.direct, human)[:, :, None]
    hits = cast(body, view)
    flat, colours = shade(body, view, hits, lamp)
    canvas = pixels.reshape(-1, 3)
    canvas[flat] = colours
    occluder, occlusion = "none", 0.0
    if rng.random() < camera.occluded:
        occluder, front = _occluder(rng, human, yaw)
        over = cast(front, view)
        nearer = over.depth < hits.depth
        seen = hits.solid != NOTHING
        occlusion = float((nearer & seen).sum() / max(1, seen.sum()))
        over.solid[~nearer] = NOTHING
        flat, colours = shade(front, view, over, lamp)
        canvas[flat] = colours

    blur = camera.blur * float(rng.uniform(0.6, 1.5))
    noise = camera.noise * float(rng.uniform(0.7, 1.4)) / max(0.5, light) ** 0.5
    resolution = float(np.clip(camera.resolution * rng.uniform(0.8, 1.15), 0.35, 1.0))
    data = _sensor(pixels, np.array(camera.gains, F32) * F32(light), blur, noise, resolution, camera.quality, rng)
    return data, {
        "yaw": round(yaw, 1) % 360,
        "elevation": round(elevation, 1),
        "distance": round(distance, 2),
        "light": round(light, 3),
        "sun": round(camera.direct, 3),
        "red": round(camera.gains[0], 3),
        "green": round(camera.gains[1], 3),
        "blue": round(camera.gains[2], 3),
        "blur": round(blur, 2),
        "noise": round(noise, 4),
        "resolution": round(resolution, 2),
        "quality": camera.quality,
        "zoom": round(zoom, 3),
        "shift_x": round(float(shift[0]), 3),
        "shift_y": round(float(shift[1]), 3),
        "occluder": occluder if occlusion > 0 else "none",
        "occlusion": round(occlusion, 3),
        **asdict(identity),
    }


def _frame(
    body: Body, eye: np.ndarray, axes: np.ndarray, height: int, shape: str, zoom: float, shift: np.ndarray
) -> View:
    """The window around a body: 2:1 for persons, of the body's own proportions for vehicles, or square."""
    x, y = project(np.stack(body.corners), eye, axes)
    left, right, top, bottom = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    wide, high = (right - left) / 2, (bottom - top) / 2
    if shape == "tall":
        size = (height, height // 2)
        high = max(high, 1.15 * wide)  # a long stride may leave the frame
        wide = high / 2
    elif shape == "square":
        size = (height, height)
        high = wide = max(high, 0.9 * wide)
    else:
        aspect = float(np.clip(wide / high, 0.75, 2.0))
        size = (max(8, round(height / aspect**0.5)), max(8, round(height * aspect**0.5)))
        high = max(high, wide / aspect)
        wide = aspect * high
    wide, high = wide * zoom, high * zoom
    centre = ((left + right) / 2 + shift[0] * wide * 2, (top + bottom) / 2 + shift[1] * high * 2)
    return View(eye, axes, (centre[0] - wide, centre[1] - high, centre[0] + wide, centre[1] + high), size)


def _background(camera: Camera, view: View, rng: np.random.Generator, human: bool) -> np.ndarray:
    """A crop of the camera's backdrop, linear colours (H, W, 3)."""
    h, w = view.size
    tall = float(rng.uniform(135, 185)) if human else float(rng.uniform(92, 142))
    wide = tall * w / h
    bottom = min(BACKDROP_SIZE[1] - 1.0, HORIZON + float(rng.uniform(0.35, 0.9)) * (BACKDROP_SIZE[1] - HORIZON))
    bottom = max(bottom, tall)
    left = float(rng.uniform(0, BACKDROP_SIZE[0] - wide))
    picture = backdrop("person" if human else "vehicle", camera.indoor, camera.backdrop)
    cut = picture.resize((w, h), PIL.Image.Resampling.BILINEAR, box=(left, bottom - tall, left + wide, bottom))
    pixels = np.asarray(cut, F32) / 255
    return pixels * pixels


def _shadow(view: View, sun: np.ndarray, direct: float, human: bool) -> np.ndarray:
    """Share of light on the ground, (H, W): a soft shadow under the body, longer on the side away from the sun."""
    x, y = view.pixels()
    rays = view.axes[0] + x[None, :, None] * view.axes[1] + y[:, None, None] * view.axes[2]  # (H, W, 3)
    down = np.minimum(rays[:, :, 2], -1e-3)
    t = -view.eye[2] / down
    gx, gy = view.eye[0] + t * rays[:, :, 0], view.eye[1] + t * rays[:, :, 1]
    if human:
        along = gx * sun[0] + gy * sun[1]
        across = gx * sun[1] - gy * sun[0]
        behind = np.where(along < 0, 0.35, 3.0)  # longer on the side away from the sun
        cloud = np.exp(-(across * across * 14 + along * along * behind * 4))
    else:
        cloud = np.exp(-((np.maximum(abs(gx) - 1.9, 0) / 0.5) ** 2 + (np.maximum(abs(gy) - 0.8, 0) / 0.5) ** 2))
    cloud *= rays[:, :, 2] < -1e-3
    result: np.ndarray = (1 - (0.35 + 0.45 * direct) * cloud).astype(F32)
    return result


def _occluder(rng: np.random.Generator, human: bool, yaw: float) -> tuple[str, Body]:
    """Name and body of an occluder between the camera and the identity."""
    kind = str(rng.choice(OCCLUDERS["person" if human else "vehicle"]))
    toward = np.array((np.cos(np.radians(yaw)), np.sin(np.radians(yaw))))
    side = np.array((-toward[1], toward[0]))
    reach, spread = (0.75, 0.32) if human else (2.9, 1.5)
    x, y = toward * (reach + float(rng.uniform(0, 0.9))) + side * float(rng.normal(0, spread))
    names = list(COLOURS)
    colour = COLOURS[names[rng.integers(len(names))]]
    second = COLOURS[names[rng.integers(len(names))]]
    front = Body()
    if kind == "pole":
        r = float(rng.uniform(0.05, 0.11))
        front.tube((x, y, 0), (x, y, 4), (r, r), r, Surface((0.5, 0.5, 0.52)))
    elif kind == "tree":
        r = float(rng.uniform(0.12, 0.2))
        front.tube((x, y, 0), (x, y, 3), (r, r), r * 0.8, Surface((0.32, 0.23, 0.15)))
        front.ellipsoid((x, y, 3.4), (1.2, 1.2, 1.1), Surface((0.2, 0.42, 0.16), (0.13, 0.3, 0.1), "camouflage", 1.5))
    elif kind == "hedge":
        tall = float(rng.uniform(0.4, 0.95))
        front.ellipsoid((x, y, 0), (0.45, 0.8, tall), Surface((0.2, 0.42, 0.16), (0.13, 0.3, 0.1), "camouflage", 4))
    elif kind == "bin":
        front.tube((x, y, 0), (x, y, float(rng.uniform(0.7, 1.0))), (0.24, 0.24), 0.28, Surface(colour))
    elif kind == "barrier":
        tall = float(rng.uniform(0.5, 0.95))
        front.box((x, y, tall), (1.1, 1.1, 0.24), Surface(colour, second, "stripes", 1.6))
        front.box((x, y, tall / 2), (0.1, 0.1, tall), Surface((0.4, 0.4, 0.4)))
    elif kind == "board":
        front.box((x, y, 0.62), (0.16, 0.62, 1.2), Surface(colour, second, "block"))
    elif kind == "person":
        weights = dict.fromkeys(COLOURS, 1.0)
        passer = person.build(person.draw_family(person.draw_look(rng, weights), rng, weights), person.draw_pose(rng))
        far = float(rng.uniform(0.5, 0.85)) * float(rng.choice((-1, 1))) * (0.55 if human else 1.6)
        front = passer.moved((x + side[0] * far, y + side[1] * far, 0), float(rng.uniform(0, 2 * np.pi)))
    else:
        paints = dict.fromkeys(PAINTS, 1.0)
        look = replace(vehicle.draw_look(rng, paints), type="sedan")
        other = vehicle.build(vehicle.draw_family(look, rng, paints))
        far = float(rng.uniform(2.6, 3.8)) * float(rng.choice((-1, 1)))
        front = other.moved((x + side[0] * far, y + side[1] * far, 0), float(rng.normal(0, 0.2)))
    return kind, front


def _sensor(
    pixels: np.ndarray,
    gains: np.ndarray,
    blur: float,
    noise: float,
    resolution: float,
    quality: int,
    rng: np.random.Generator,
) -> bytes:
    """Convert linear colours to a JPEG file."""
    h, w = pixels.shape[:2]
    display = np.sqrt(np.clip(pixels * gains, 0, 1))
    display += F32(noise) * rng.standard_normal(display.shape, F32)
    image = PIL.Image.fromarray((np.clip(display, 0, 1) * 255).astype(np.uint8))
    image = image.filter(PIL.ImageFilter.GaussianBlur(blur * h / 128))
    if resolution < 0.95:
        small = image.resize((max(4, round(w * resolution)), max(8, round(h * resolution))), PIL.Image.Resampling.BOX)
        image = small.resize((w, h), PIL.Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=quality)
    return stream.getvalue()
