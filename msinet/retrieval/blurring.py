"""Local blurring re-ranking, the post-processing of SFT (Luo et al., ICCV 2019)."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from msinet.errors import UserError
from msinet.retrieval.similarities import Features, as_features, unit_rows

CHUNK_BYTES = 64 << 20  # features of nearest gallery images in memory at a time


def check_blurring(nearest: int, temperature: float) -> None:
    """Check the arguments of `blur`.

    Raises:
        UserError: arguments out of range.
    """
    if nearest < 1 or not temperature > 0:
        raise UserError(
            f"local blurring needs at least one image and a temperature above 0, got {nearest} and {temperature:g}"
        )


def blur(query: Features, gallery: Features, *, nearest: int = 50, temperature: float = 0.1) -> NDArray[np.float32]:
    """Distances (Q, G) after local blurring: each query's nearest gallery images are mixed and re-ranked.

    The unit features X of a query's nearest images become softmax(X X^T / temperature) X, scaled to unit length,
    and are ranked by their squared distance to the query. All other images follow in their old order: their squared
    distance is increased by 4, the largest between unit vectors.

    Args:
        query: (Q, D) features of any length.
        gallery: (G, D) features.
        nearest: number of gallery images that are mixed, at least 1; more than G: all of them. The authors use 50, on
            MSMT17 150.
        temperature: above 0. The authors use 0.1, on MSMT17 0.02.

    Raises:
        UserError: arguments out of range, or shapes that do not match.
        DataError: NaN or infinite features.
    """
    check_blurring(nearest, temperature)
    query, gallery = as_features(query, gallery)
    query, gallery = unit_rows("query", query).float(), unit_rows("gallery", gallery).float()
    nearest = min(nearest, len(gallery))
    result = np.empty((len(query), len(gallery)), np.float32)
    step = max(1, CHUNK_BYTES // (4 * max(len(gallery), nearest * gallery.shape[1])))
    for start in range(0, len(query), step):
        q = query[start : start + step]  # (q, D)
        distances = 2 - 2 * q @ gallery.T  # (q, G)
        first = distances.topk(nearest, largest=False).indices  # (q, k)
        x = gallery[first]  # (q, k, D)
        mixed = F.normalize((x @ x.transpose(1, 2) / temperature).softmax(2) @ x, dim=2)
        anew = 2 - 2 * torch.einsum("qd,qkd->qk", q, mixed)
        result[start : start + step] = (distances + 4).scatter(1, first, anew).cpu().numpy()
    return result
