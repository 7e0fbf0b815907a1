"""Networks: one file per family, one registry."""

from msinet.models import cdnet, colour, msinet, osnet, resnet, supernet, transformer  # noqa: F401  (importing registers them)
from msinet.models.heads import Output
from msinet.models.registry import MODELS, build_model, split_name
from msinet.models.weights import LoadReport, load_weights, save_weights

__all__ = ["MODELS", "LoadReport", "Output", "build_model", "load_weights", "save_weights", "split_name"]
