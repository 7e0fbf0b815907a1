"""The losses of training (Sec. 3.2-3.3, Eq. 5-8)."""

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from msinet.errors import UserError, unknown_name
from msinet.models.sam import at_least_float, correlations
from msinet.precision import outside_autocast
from msinet.training.recipe import Variant


def identity_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.1, margin: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing (Eq. 5).

    The target is (1 - smoothing) * one-hot + smoothing / identities. With a margin, and scaled cosines as logits,
    this is the AM-softmax (Wang et al., 2018). Its margin on the cosine is `margin` divided by the scale.

    Args:
        logits: (B, identities).
        labels: (B,), in [0, identities).
        smoothing: in [0, 1]; 0 is plain cross-entropy.
        margin: subtracted from the logit of an image's own identity, at least 0.
    """
    if margin:
        logits = logits - margin * F.one_hot(labels, logits.shape[1])
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@outside_autocast
def triplet_loss(embeddings: Tensor, labels: Tensor, margin: float | None = 0.3, *, normalize: bool = True) -> Tensor:
    """Batch-hard triplet loss (Eq. 6): the farthest positive against the nearest negative of each anchor.

    The anchor is among its own positives, which is harmless because its distance is the smallest. An
    anchor without a negative in the batch has loss 0.

    Args:
        embeddings: (B, D).
        labels: (B,).
        margin: least difference of the distances to negative and positive; None: the soft margin of transformers,
            log(1 + exp(positive - negative)) (TransReID).
        normalize: compare unit vectors, so that distances lie in [0, 2] (the released code does).
    """
    embeddings = at_least_float(embeddings)
    if normalize:
        embeddings = F.normalize(embeddings)
    square = embeddings.square().sum(1)
    # |a - b|^2 by one matrix product; clamped because rounding can push it below 0.
    distance = (square[:, None] + square - 2 * embeddings @ embeddings.T).clamp(min=1e-12).sqrt()  # (B, B)
    same = labels[:, None] == labels
    hardest_positive = distance.masked_fill(~same, 0.0).amax(1)  # (B,)
    hardest_negative = distance.masked_fill(same, torch.inf).amin(1)  # (B,)
    difference = hardest_positive - hardest_negative
    return (F.softplus(difference) if margin is None else F.relu(difference + margin)).mean()


@outside_autocast
def alignment_loss(
    feature_map: Tensor,
    labels: Tensor,
    variant: Variant = "pam-self",
    *,
    activation: Tensor | None = None,
    partner_grid: bool = False,
    self_pairs: bool = True,
    per_pair: bool = True,
) -> Tensor:
    """Spatial alignment (Eq. 7-8; variants of Table 5): an anchor should agree with its partners at equal positions.

    With u(i, j) the correlation of anchor i with j as a unit vector over positions, the dissimilarity of a set of n
    partners is the mean of 1 - u(i, p) . u(i, q) over its pairs. This equals 1 - |sum of u|^2 / n^2, so pairs are never
    formed. The variants, averaged over the anchors:

    - self-pos: dissimilarity of the images of the anchor's identity; self-neg: of all others; unified: of all images;
    - separated: self-pos + self-neg;
    - pam-self: self-neg, and for the positives the mean of 1 - cos(activation of i, u(i, p)).

    An anchor without partners of a kind has no term of that kind; identities may have different numbers of images.

    Args:
        feature_map: (B, C, H, W), not normalised.
        labels: (B,).
        variant: see above.
        activation: (B, H*W) from the position activation module, for pam-self.
        partner_grid: compare on the grid of the partner rather than of the anchor, as the released code does.
        self_pairs: count the pair of a partner with itself and, in pam-self, the anchor among its positives, as the
            released code does. In the other variants the anchor is always one of the partners of its own identity.
        per_pair: negatives are averaged over their pairs; otherwise their sum is divided by their number (Eq. 8).

    Returns:
        A scalar, at least 0 up to rounding.

    Raises:
        UserError: unknown variant, or pam-self without activation.
    """
    if variant == "none":
        return feature_map.new_zeros(())
    if variant not in get_args(Variant):
        raise unknown_name("variant of spatial alignment", variant, get_args(Variant))
    values = correlations(feature_map)  # (B, B, N)
    # The gradient of a unit vector is divided by its length, so a tiny eps would make almost orthogonal maps explode.
    units = F.normalize(values.transpose(0, 1) if partner_grid else values, dim=2, eps=1e-4)
    same = labels[:, None] == labels
    every = torch.ones_like(same)

    def dissimilarity(partners: Tensor, *, mean: bool = True) -> Tensor:
        chosen = partners.to(units.dtype)  # (B, B)
        count = chosen.sum(1)  # (B,)
        agreement = torch.einsum("ij,ijn->in", chosen, units).square().sum(1)  # (B,): over all ordered pairs
        pairs = count * count
        if not self_pairs:
            agreement = agreement - (chosen * units.square().sum(2)).sum(1)
            pairs = pairs - count
        missing = pairs - agreement  # sum of 1 - cos
        return (missing / (pairs if mean else count).clamp(min=1)).mean()

    if variant == "unified":
        return dissimilarity(every)
    if variant == "self-pos":
        return dissimilarity(same)
    negative = dissimilarity(~same, mean=per_pair)
    if variant == "self-neg":
        return negative
    if variant == "separated":
        return dissimilarity(same) + negative
    if activation is None:
        raise UserError("alignment pam-self needs a network with a position activation module: option pam=True")
    itself = torch.eye(len(same), dtype=torch.bool, device=same.device)
    partners = (same if self_pairs else same & ~itself).to(units.dtype)
    cosines = torch.einsum("in,ijn->ij", F.normalize(at_least_float(activation)), units)  # (B, B)
    count = partners.sum(1)
    return ((partners * (1 - cosines)).sum(1) / count.clamp(min=1)).mean() + negative
