"""Bodies made of simple solids, and ray casting.

A body is a list of ellipsoids, tapered cylinders and convex polyhedra in one frame: x points to the
body's front, y to its left, z up, in metres, with the ground at z = 0. The camera moves around the body.
All operations are elementwise float32, so results do not depend on the number of threads.
"""

from dataclasses import dataclass, field

import numpy as np

Vector = tuple[float, float, float]
Colour = tuple[float, float, float]
F32 = np.float32

#: Patterns of a surface by name; the number is used in the arrays.
PATTERNS = ("plain", "hoops", "stripes", "checks", "dots", "block", "diagonal", "camouflage")
#: Outlines of a decal.
SHAPES = ("rectangle", "disc", "triangle", "cross", "ring", "bars", "diamond", "arch")

_SPHERE, _CONE, _POLYHEDRON = 0, 1, 2
_CUBE = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], F32)
_UNIT_Z = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 1)], F32)
#: A pixel without a solid.
NOTHING = -1


@dataclass(frozen=True)
class Surface:
    """Appearance of a solid; colours are display RGB in [0, 1]."""

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    frequency: float = 10.0
    """repeats per metre"""
    shine: float = 0.0
    """0: cloth; 1: car paint or glass"""


@dataclass(frozen=True)
class Decal:
    """A flat mark on one side of a solid, such as a print, a window or a plate."""

    solid: int
    axis: int
    """0, 1 or 2: the axis of the solid's own frame along which it faces"""
    side: int
    """1: towards the axis; -1: the other way"""
    centre: tuple[float, float]
    """along the two other axes, in order, in the solid's own coordinates"""
    half: tuple[float, float]
    """half of its extent along them"""
    shape: str
    colour: Colour
    shine: float = 0.0
    tilt: float = 0.0
    """shear of the second axis into the first"""


@dataclass
class Body:
    """Solids and the decals on them, in drawing order."""

    kinds: list[int] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    """(3, 4) each: body coordinates to the solid's own"""
    tapers: list[float] = field(default_factory=list)
    """radius at the far end over that at the near end"""
    planes: list[np.ndarray] = field(default_factory=list)
    """(k, 4) each in body coordinates: inside where n p + w <= 0"""
    corners: list[np.ndarray] = field(default_factory=list)
    """(8, 3) each in body coordinates, around the solid"""
    surfaces: list[Surface] = field(default_factory=list)
    scales: list[tuple[float, float]] = field(default_factory=list)
    """metres per unit of angle and of height, for patterns"""
    decals: list[Decal] = field(default_factory=list)

    def ellipsoid(self, centre: Vector, radii: Vector, surface: Surface) -> int:
        """Add an ellipsoid with axes along the body's; returns the number of the solid."""
        r = np.array(radii, F32)
        frame = np.zeros((3, 4), F32)
        frame[[0, 1, 2], [0, 1, 2]] = 1 / r
        frame[:, 3] = -np.array(centre, F32) / r
        return self._add(
            _SPHERE,
            frame,
            1.0,
            np.zeros((0, 4), F32),
            _CUBE * r + np.array(centre, F32),
            surface,
            (float(r[0] + r[1]) / 2, float(r[2])),
        )

    def tube(self, start: Vector, end: Vector, radius: tuple[float, float], end_radius: float, surface: Surface) -> int:
        """Add a tapered cylinder with flat ends; returns the number of the solid.

        Args:
            start: centre of one end.
            end: centre of the other.
            radius: at the start, forwards and sideways.
            end_radius: at the end, forwards; the sideways radius tapers by the same factor.
            surface: appearance.
        """
        a, b = np.array(start, np.float64), np.array(end, np.float64)
        length = float(np.sqrt(((b - a) ** 2).sum()))
        axis = (b - a) / length
        forward = np.array((1.0, 0.0, 0.0)) if abs(axis[0]) < 0.9 else np.array((0.0, 0.0, 1.0))
        forward = forward - axis * (forward * axis).sum()
        forward /= np.sqrt((forward**2).sum())
        side = np.array(
            (
                axis[1] * forward[2] - axis[2] * forward[1],
                axis[2] * forward[0] - axis[0] * forward[2],
                axis[0] * forward[1] - axis[1] * forward[0],
            )
        )
        rotation = np.stack((forward / radius[0], side / radius[1], axis / length))
        frame = np.concatenate((rotation, -(rotation * a).sum(1, keepdims=True)), 1).astype(F32)
        taper = end_radius / radius[0]
        wide = max(1.0, taper)
        corners = (
            a
            + _UNIT_Z[:, 0:1] * wide * radius[0] * forward
            + _UNIT_Z[:, 1:2] * wide * radius[1] * side
            + _UNIT_Z[:, 2:3] * length * axis
        )
        ends = np.stack((np.append(-axis, (axis * a).sum()), np.append(axis, -(axis * b).sum())))
        return self._add(_CONE, frame, taper, ends.astype(F32), corners.astype(F32), surface, (sum(radius) / 2, length))

    def polyhedron(self, planes: np.ndarray, low: Vector, high: Vector, surface: Surface) -> int:
        """Add the part of a box behind all `planes` (k, 4): n p + w <= 0; returns the number of the solid."""
        lo, hi = np.array(low, F32), np.array(high, F32)
        sides = np.zeros((6, 4), F32)
        sides[[0, 1, 2], [0, 1, 2]], sides[:3, 3] = -1, lo
        sides[[3, 4, 5], [0, 1, 2]], sides[3:, 3] = 1, -hi
        planes = np.concatenate((sides, np.asarray(planes, F32).reshape(-1, 4)))
        planes /= np.sqrt((planes[:, :3] ** 2).sum(1, keepdims=True))
        frame = np.eye(3, 4, dtype=F32)
        frame[:, 3] = -(lo + hi) / 2
        corners = (_CUBE + 1) / 2 * (hi - lo) + lo
        return self._add(_POLYHEDRON, frame, 1.0, planes, corners, surface, (1.0, 1.0))

    def box(self, centre: Vector, size: Vector, surface: Surface) -> int:
        """Add a box with edges along the axes; returns the number of the solid."""
        c, s = np.array(centre), np.array(size) / 2
        low, high = c - s, c + s
        return self.polyhedron(np.zeros((0, 4)), (low[0], low[1], low[2]), (high[0], high[1], high[2]), surface)

    def _add(
        self,
        kind: int,
        frame: np.ndarray,
        taper: float,
        planes: np.ndarray,
        corners: np.ndarray,
        surface: Surface,
        scale: tuple[float, float],
    ) -> int:
        self.kinds.append(kind)
        self.frames.append(frame)
        self.tapers.append(taper)
        self.planes.append(planes)
        self.corners.append(corners)
        self.surfaces.append(surface)
        self.scales.append(scale)
        return len(self.kinds) - 1

    def __len__(self) -> int:
        return len(self.kinds)

    def moved(self, offset: Vector, turn: float = 0.0) -> "Body":
        """The body turned about the vertical axis and then moved; for occluders."""
        c, s = float(np.cos(turn)), float(np.sin(turn))
        rotation = np.array(((c, -s, 0), (s, c, 0), (0, 0, 1)), F32)
        shift = np.array(offset, F32)
        frames, planes = [], []
        for frame, faces in zip(self.frames, self.planes, strict=True):
            turned = (frame[:, :3, None] * rotation.T[None]).sum(1)
            frames.append(np.concatenate((turned, frame[:, 3:] - (turned * shift).sum(1, keepdims=True)), 1))
            normals = (faces[:, None, :3] * rotation[None]).sum(2)
            planes.append(np.concatenate((normals, faces[:, 3:] - (normals * shift).sum(1, keepdims=True)), 1))
        corners = [(c[:, None, :] * rotation[None]).sum(2) + shift for c in self.corners]
        return Body(self.kinds, frames, self.tapers, planes, corners, self.surfaces, self.scales, self.decals)


@dataclass(frozen=True)
class View:
    """A pinhole camera and the window of its image plane that is rendered."""

    eye: np.ndarray
    """(3,) in body coordinates"""
    axes: np.ndarray
    """(3, 3): forward, right, down; unit vectors"""
    window: tuple[float, float, float, float]
    """left, top, right, bottom in the plane at distance 1"""
    size: tuple[int, int]
    """height and width in pixels"""

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Image-plane coordinates of the columns (W,) and of the rows (H,)."""
        left, top, right, bottom = self.window
        h, w = self.size
        x = left + (np.arange(w, dtype=F32) + F32(0.5)) * F32((right - left) / w)
        y = top + (np.arange(h, dtype=F32) + F32(0.5)) * F32((bottom - top) / h)
        return x, y


def look_at(target: Vector, azimuth: float, elevation: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Eye and axes of a camera that looks at `target` from `azimuth` (0: from the front) and `elevation` (radians)."""
    ce, se, ca, sa = (float(f(a)) for a in (elevation, azimuth) for f in (np.cos, np.sin))
    forward = np.array((-ce * ca, -ce * sa, -se), F32)
    right = np.array((-sa, ca, 0.0), F32)
    down = np.array(
        (
            forward[1] * right[2] - forward[2] * right[1],
            forward[2] * right[0] - forward[0] * right[2],
            forward[0] * right[1] - forward[1] * right[0],
        ),
        F32,
    )
    return np.array(target, F32) - F32(distance) * forward, np.stack((forward, right, down))


def project(points: np.ndarray, eye: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image-plane coordinates x (right) and y (down) of points (..., 3)."""
    p = points - eye
    depth, x, y = ((p * axis).sum(-1) for axis in axes)
    depth = np.maximum(depth, F32(0.05))
    return x / depth, y / depth


@dataclass(frozen=True)
class Hits:
    """The first solid on the ray of each pixel."""

    solid: np.ndarray
    """(H, W) int16, the solid's number or NOTHING"""
    depth: np.ndarray
    """(H, W) float32, along a ray of unit forward component"""
    face: np.ndarray
    """(H, W) int8, the plane that was hit, or -1 for a curved surface"""


def cast(body: Body, view: View) -> Hits:
    """The first solid along the ray of every pixel."""
    h, w = view.size
    depth = np.full((h, w), np.inf, F32)
    solid = np.full((h, w), NOTHING, np.int16)
    face = np.full((h, w), -1, np.int8)
    if not len(body):
        return Hits(solid, depth, face)
    x, y = view.pixels()
    y = y[:, None]
    corners = np.stack(body.corners)  # (S, 8, 3)
    px, py = project(corners, view.eye, view.axes)
    left, top, right, bottom = view.window
    columns = ((px - left) * (w / (right - left))).astype(F32)
    rows = ((py - top) * (h / (bottom - top))).astype(F32)
    lows = np.stack((columns.min(1), rows.min(1)), 1)
    highs = np.stack((columns.max(1), rows.max(1)), 1)
    bounds = np.concatenate((np.floor(lows), np.ceil(highs)), 1)
    bounds = np.clip(bounds, 0, (w, h, w, h)).astype(int)
    frames = np.stack(body.frames)  # (S, 3, 4)
    # In a solid's own coordinates the ray through (x, y) is o + t (a + x b + y c).
    origins = (frames[:, :, :3] * view.eye).sum(2) + frames[:, :, 3]
    rays = (frames[:, :, None, :3] * view.axes[None, None]).sum(3)  # (S, 3, 3): a, b, c in the last axis
    for number, (x0, y0, x1, y1) in enumerate(bounds):
        if x0 >= x1 or y0 >= y1:
            continue
        xs, ys = x[x0:x1], y[y0:y1]
        near = np.full((y1 - y0, x1 - x0), 1e-3, F32)
        far = depth[y0:y1, x0:x1]
        which = np.full(near.shape, -1, np.int8)
        kind = body.kinds[number]
        if kind != _POLYHEDRON:
            near, far = _quadric(kind, body.tapers[number], origins[number], rays[number], xs, ys, near, far)
        planes = body.planes[number]
        if len(planes):
            heights = (planes[:, :3] * view.eye).sum(1) + planes[:, 3]
            slopes = (planes[:, None, :3] * view.axes[None]).sum(2)  # (k, 3)
            for i, (above, (a, b, c)) in enumerate(zip(heights, slopes, strict=True)):
                slope = (a + b * xs) + c * ys
                slope[slope == 0] = 1e-12
                t = -above / slope
                entering = slope < 0
                later = entering & (t > near)
                near = np.where(later, t, near)
                which[later] = i
                far = np.where(entering, far, np.minimum(far, t))
        hit = near < far
        if kind != _POLYHEDRON:
            hit &= near > 1e-3
        depth[y0:y1, x0:x1][hit] = near[hit]
        solid[y0:y1, x0:x1][hit] = number
        face[y0:y1, x0:x1][hit] = which[hit]
    return Hits(solid, depth, face)


def _quadric(
    kind: int,
    taper: float,
    origin: np.ndarray,
    ray: np.ndarray,
    xs: np.ndarray,
    ys: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of each ray inside the unit sphere, or inside the cone of radius 1 + (taper - 1) z."""
    dx, dy, dz = ((r[0] + r[1] * xs) + r[2] * ys for r in ray)
    ox, oy, oz = origin
    if kind == _SPHERE:
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        c = ox * ox + oy * oy + oz * oz - 1
    else:
        k = F32(taper - 1)
        r = 1 + k * oz
        a = dx * dx + dy * dy - k * k * dz * dz
        a = np.maximum(a, 1e-6)  # rays within the cone's opening angle: rare
        b = ox * dx + oy * dy - k * r * dz
        c = ox * ox + oy * oy - r * r
    root = b * b - a * c
    inside = root > 0
    root = np.sqrt(np.where(inside, root, 0))
    first, last = (-b - root) / a, (-b + root) / a
    return np.where(inside, np.maximum(near, first), np.inf), np.minimum(far, last)


@dataclass(frozen=True)
class Light:
    """Direction and strength of the sun, and strength of the sky."""

    sun: np.ndarray
    """(3,) unit vector towards the sun, in body coordinates"""
    direct: float
    ambient: float


def shade(body: Body, view: View, hits: Hits, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Linear colours of the pixels whose ray hits a solid.

    Returns:
        Positions of those pixels in the flattened image (n,) and their colours (n, 3) float32.
    """
    flat = np.flatnonzero(hits.solid.ravel() != NOTHING)
    number = hits.solid.ravel()[flat]
    if not len(flat):
        return flat, np.zeros((0, 3), F32)
    x, y = view.pixels()
    row, column = np.divmod(flat, view.size[1])
    ray = view.axes[0] + x[column, None] * view.axes[1] + y[row, None] * view.axes[2]  # (n, 3)
    point = view.eye + hits.depth.ravel()[flat, None] * ray
    frame = np.stack(body.frames)[number]  # (n, 3, 4)
    own = np.einsum("nij,nj->ni", frame[:, :, :3], point) + frame[:, :, 3]  # (n, 3)
    normal = _normals(body, hits.face.ravel()[flat], number, own, frame)

    colour = np.array([s.colour for s in body.surfaces], F32)[number]
    shine = np.array([s.shine for s in body.surfaces], F32)[number]
    _paint_patterns(body, number, own, colour)
    _paint_decals(body, number, own, normal, colour, shine)

    colour = colour * colour  # display to linear light, with gamma 2
    lit = np.maximum(_dot(normal, light.sun), 0)
    sky = 0.62 + 0.38 * normal[:, 2]
    result = colour * (light.ambient * sky + light.direct * lit)[:, None]
    if (shine > 0).any():
        toward = -ray / np.sqrt(_dot(ray, ray))[:, None]
        mirrored = 2 * _dot(normal, toward)[:, None] * normal - toward
        glint = np.maximum(_dot(mirrored, light.sun), 0)
        for _ in range(4):
            glint = glint * glint  # to the 16th power
        heaven = np.clip(mirrored[:, 2] * 1.6 + 0.1, 0, 1)
        result += (shine * (0.16 * light.ambient * heaven + 0.5 * light.direct * glint))[:, None]
    return flat, result.astype(F32)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of rows: (n, 3) with (n, 3) or (3,)."""
    product: np.ndarray = a[:, 0] * b[..., 0] + a[:, 1] * b[..., 1] + a[:, 2] * b[..., 2]
    return product


def _normals(body: Body, face: np.ndarray, number: np.ndarray, own: np.ndarray, frame: np.ndarray) -> np.ndarray:
    gradient = own.copy()
    kinds = np.array(body.kinds, np.int8)[number]
    cones = kinds == _CONE
    k = np.array(body.tapers, F32)[number] - 1
    gradient[cones, 2] = (-k * (1 + k * own[:, 2]))[cones]
    normal = np.einsum("ni,nij->nj", gradient, frame[:, :, :3])
    flat = face >= 0
    if flat.any():
        most = max(len(p) for p in body.planes)
        table = np.zeros((len(body), most, 3), F32)
        for i, planes in enumerate(body.planes):
            table[i, : len(planes)] = planes[:, :3]
        normal[flat] = table[number[flat], face[flat]]
    result: np.ndarray = normal / np.sqrt(_dot(normal, normal) + 1e-12)[:, None]
    return result


def _paint_patterns(body: Body, number: np.ndarray, own: np.ndarray, colour: np.ndarray) -> None:
    codes = np.array([PATTERNS.index(s.pattern) for s in body.surfaces], np.int8)
    at = np.flatnonzero(codes[number] > 0)
    if not len(at):
        return
    n, p = number[at], own[at]
    curved = np.array(body.kinds, np.int8)[n] != _POLYHEDRON
    wide, high = np.array(body.scales, F32)[n].T
    across = np.where(curved, np.arctan2(p[:, 1], p[:, 0]) * wide, p[:, 0] + p[:, 1])
    along = p[:, 2] * high
    f = np.array([s.frequency for s in body.surfaces], F32)[n] * F32(2 * np.pi)
    a, b = np.sin(across * f), np.sin(along * f)
    level = np.where(np.array(body.kinds)[n] == _CONE, p[:, 2] > 0.5, p[:, 2] > 0)
    choices = [
        np.zeros(len(at), bool),
        b > 0,
        a > 0.1,
        (a > 0) ^ (b > 0),
        (a > 0.3) & (b > 0.3),
        level,
        np.sin((across + along) * f) > 0,
        np.sin(across * f * 0.7 + 2 * b) + np.sin(along * f * 0.6 + 2 * a) > 0.2,
    ]
    other = at[np.choose(codes[n], choices)]
    colour[other] = np.array([s.second for s in body.surfaces], F32)[number[other]]


def _paint_decals(
    body: Body, number: np.ndarray, own: np.ndarray, normal: np.ndarray, colour: np.ndarray, shine: np.ndarray
) -> None:
    """Paint the decals in order; later ones cover earlier ones."""
    facing: dict[tuple[int, int, int], np.ndarray] = {}  # pixels of a solid that face along an axis
    for decal in body.decals:
        key = decal.solid, decal.axis, decal.side
        if key not in facing:
            axis = body.frames[decal.solid][decal.axis, :3]
            at = np.flatnonzero(number == decal.solid)
            facing[key] = at[_dot(normal[at], axis / np.sqrt((axis**2).sum())) * decal.side > 0.25]
        if len(facing[key]):
            _paint_decal(decal, facing[key], own, colour, shine)


def _paint_decal(decal: Decal, at: np.ndarray, own: np.ndarray, colour: np.ndarray, shine: np.ndarray) -> None:
    first, second = (axis for axis in range(3) if axis != decal.axis)
    v = (own[at, second] - decal.centre[1]) / decal.half[1]
    u = (own[at, first] - decal.centre[0]) / decal.half[0] - decal.tilt * v
    au, av = abs(u), abs(v)
    inside = (au <= 1) & (av <= 1)
    if decal.shape == "disc":
        inside &= u * u + v * v <= 1
    elif decal.shape == "triangle":
        inside &= au <= (1 - v) / 2
    elif decal.shape == "cross":
        inside &= (au < 0.34) | (av < 0.34)
    elif decal.shape == "ring":
        r = u * u + v * v
        inside &= (r <= 1) & (r > 0.3)
    elif decal.shape == "bars":
        inside &= np.sin(v * F32(7.9)) > 0
    elif decal.shape == "diamond":
        inside &= au + av <= 1
    elif decal.shape == "arch":
        inside &= u * u + np.maximum(v, 0) ** 2 <= 1
    at = at[inside]
    colour[at] = decal.colour
    shine[at] = decal.shine
