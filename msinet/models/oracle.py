"""Oracles: baselines that know a few factors of every rendered image and see no pixels (docs/calibration.md)."""

from torch import Tensor, nn

from msinet.data.factors import Oracle as Knowledge
from msinet.errors import UserError
from msinet.models.registry import NetworkCard, register


class Oracle(nn.Module):
    """Placeholder network of an oracle. `msinet.training.evaluation` computes its features from the set's factors.

    Args:
        knows: the factors that it knows, a key of `msinet.data.factors.ORACLES`.

    Raises:
        UserError: called on images.
    """

    def __init__(self, knows: Knowledge) -> None:
        super().__init__()
        self.knows: Knowledge = knows

    def forward(self, images: Tensor) -> Tensor:
        raise UserError(
            f"oracle_{self.knows} sees no pixels: it can only be evaluated, without training, on a rendered set"
        )


def _oracle(knows: Knowledge, width: float) -> Oracle:
    if width != 1:
        raise UserError(f"oracle_{knows} has no width to multiply by {width:g}; ask for oracle_{knows}")
    return Oracle(knows)


@register(NetworkCard(name="oracle_colours", label="oracle of colours", order=1, widths=(), learns=False, revision=1))
def oracle_colours(num_classes: int, *, width: float = 1.0) -> Oracle:
    """Oracle of the main colours of garments or paint."""
    del num_classes  # nothing is classified
    return _oracle("colours", width)


@register(
    NetworkCard(
        name="oracle_coarse",
        label="oracle of colours, types and patterns",
        order=2,
        widths=(),
        learns=False,
        revision=1,
    )
)
def oracle_coarse(num_classes: int, *, width: float = 1.0) -> Oracle:
    """Oracle of everything that the families of a look share: type, build, colours and patterns."""
    del num_classes
    return _oracle("coarse", width)
