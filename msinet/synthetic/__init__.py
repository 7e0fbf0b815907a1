"""The synthetic world: persons and vehicles rendered from 3-D bodies, every factor known."""

from msinet.synthetic.render import SETS, SIZES, VERSION, Size, render

__all__ = ["SETS", "SIZES", "VERSION", "Size", "render"]
