"""Twins contrastive search of an architecture (Sec. 3.1). Importing this package does not import torch."""

from typing import TYPE_CHECKING, Any

from msinet.lazy import lazy
from msinet.models.genotype import read_genotype
from msinet.search.definition import SearchRun
from msinet.search.split import Side, block_sizes, split_identities

if TYPE_CHECKING:
    from msinet.search.memory import Memory
    from msinet.search.run import search, search_line

__all__ = ["Memory", "SearchRun", "Side", "block_sizes", "read_genotype", "search", "search_line", "split_identities"]


def __getattr__(name: str) -> Any:
    return lazy(__name__, name, memory="Memory", run="search search_line")
