"""Twins contrastive search of an architecture (Sec. 3.1)."""

from msinet.search.memory import Memory
from msinet.search.recipe import SearchRecipe, search_recipe
from msinet.search.run import check_sides, read_genotype, search, search_line
from msinet.search.split import Side, block_sizes, split_identities

__all__ = [
    "Memory",
    "SearchRecipe",
    "Side",
    "block_sizes",
    "check_sides",
    "read_genotype",
    "search",
    "search_line",
    "search_recipe",
    "split_identities",
]
