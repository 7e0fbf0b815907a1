"""The synthetic world: persons and vehicles rendered from 3-D bodies, with every factor recorded."""

from msinet.synthetic.groups import VERSION
from msinet.synthetic.plans import SETS, SIZES, Size, folder_of
from msinet.synthetic.rendering import render

__all__ = ["SETS", "SIZES", "VERSION", "Size", "folder_of", "render"]
