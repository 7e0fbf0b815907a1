"""The synthetic world: persons and vehicles rendered from 3-D bodies, every factor known."""

from msinet.data.world.render import FACTORS, SETS, SIZES, VERSION, WORLD, Size, read_world, render

__all__ = ["FACTORS", "SETS", "SIZES", "VERSION", "WORLD", "Size", "read_world", "render"]
