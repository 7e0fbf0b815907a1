"""Retrieval: queries against a gallery, ranked without sorting it, and the metrics of the ranking."""

from msinet.retrieval.metrics import METRICS, Metric, Retrieval, mean_over_draws
from msinet.retrieval.ranking import evaluate, top_k

__all__ = ["METRICS", "Metric", "Retrieval", "evaluate", "mean_over_draws", "top_k"]
