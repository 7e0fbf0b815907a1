"""Retrieval: ranks a gallery for queries, and computes the metrics of the ranking."""

from msinet.retrieval.blurring import blur
from msinet.retrieval.groups import evaluate_within
from msinet.retrieval.metrics import METRICS, Retrieval, mean_over_draws
from msinet.retrieval.nearest import top_k
from msinet.retrieval.ranking import evaluate, evaluate_distances
from msinet.retrieval.reranking import jaccard_distances, rerank

__all__ = [
    "METRICS",
    "Retrieval",
    "blur",
    "evaluate",
    "evaluate_distances",
    "evaluate_within",
    "jaccard_distances",
    "mean_over_draws",
    "rerank",
    "top_k",
]
