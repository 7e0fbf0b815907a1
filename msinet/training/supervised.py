"""Training with labels: re-identification, and classification for pre-training."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from msinet import distributed
from msinet.losses import alignment_loss, identity_loss, triplet_loss
from msinet.models import Output
from msinet.models.heads import ReIDNet
from msinet.models.sam import at_least_float
from msinet.training.batches import Batches
from msinet.training.fit import Row, Task, Values, is_due
from msinet.training.graphs import StaticStep, capture, load_optimizer, read_every, set_learning_rate, tensor_rates
from msinet.training.recipe import Recipe


class Supervised(Task):
    """Trains a network with the losses of its recipe.

    Args:
        network: on the batches' device; in training mode its forward returns an `Output`.
        batches: of the training set.
        evaluate: called after every `evaluate_every` epochs; its values are added to the history.
        evaluate_every: epochs between evaluations; 0: never.
        graphs: capture steps as CUDA graphs (`msinet.training.graphs`).
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Batches,
        evaluate: Callable[[], Row] | None = None,
        evaluate_every: int = 0,
        *,
        graphs: bool = False,
    ) -> None:
        self.network, self.batches, self.recipe = network, batches, batches.recipe
        self.epochs, self.seed = self.recipe.schedule.epochs, batches.seed
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.optimizer = build_optimizer(network, self.recipe)
        self.read_every = read_every(batches.device)
        self.train: Callable[..., Values] = self.learn
        if graphs:
            tensor_rates(self.optimizer)
            self.train = StaticStep(self.learn, capture)

    def begin_epoch(self, epoch: int, step: int) -> Row:
        """Set the learning rate, and record the step anew if the network changed."""
        learning_rate = self.recipe.learning_rate(epoch)
        set_learning_rate(self.optimizer, learning_rate)
        changed = isinstance(self.network, ReIDNet) and self.network.begin_epoch((epoch + 1) / self.epochs)
        if changed and isinstance(self.train, StaticStep) and not self.train.failed:
            self.train = StaticStep(self.learn, capture)
        return {"steps": self.batches.begin_epoch(epoch, step), "lr": learning_rate}

    def step(self, epoch: int, step: int) -> Values:
        """Train on the next batch."""
        del epoch, step
        return self.train(*self.batches.inputs())

    def learn(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Forward pass, losses of the whole batch, backward pass and optimizer step, without waiting for a GPU."""
        images, labels = self.batches.images(*inputs)
        output = gather(forward(self.network, images, self.recipe), feature_map=self.recipe.losses.alignment != "none")
        labels = distributed.gather(labels)
        parts = losses(output, labels, self.recipe)
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        distributed.sum_gradients(self.network.parameters())
        self.optimizer.step()
        accuracy = (output.logits[0].argmax(1) == labels).float().mean()
        return {name: one.detach() for name, one in parts.items()} | {"accuracy": accuracy}

    def end_epoch(self, epoch: int) -> Row:
        """Evaluate every `evaluate_every` epochs."""
        return self.evaluate() if self.evaluate is not None and is_due(epoch, self.evaluate_every) else {}

    def state_dict(self) -> dict[str, Any]:
        """State of network and optimizer."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore network and optimizer."""
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe, with weight decay on every trained parameter.

    SGD has momentum 0.9. Biases and the backbone have their own learning rates (`bias_lr`, `backbone_lr`). Methods
    without labels hold the network inside another module. A module with a true attribute `fresh` is not part of the
    pre-trained backbone, although it is inside it.
    """
    chosen = recipe.optimizer
    fresh = {one for module in model.modules() if getattr(module, "fresh", False) for one in module.parameters()}
    groups = defaultdict[float, list[nn.Parameter]](list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            times = chosen.bias_lr if name.endswith("bias") else 1.0
            in_backbone = ".backbone." in f".{name}" and parameter not in fresh
            groups[times * (chosen.backbone_lr if in_backbone else 1.0)].append(parameter)
    parameters = [{"params": members, "times": times} for times, members in groups.items()]
    common: dict[str, Any] = {"lr": chosen.lr, "weight_decay": chosen.weight_decay, "fused": True}
    if chosen.optimizer in ("adam", "amsgrad"):
        return torch.optim.Adam(parameters, amsgrad=chosen.optimizer == "amsgrad", **common)
    sgd = torch.optim.SGD(parameters, momentum=0.9, nesterov=chosen.optimizer == "nesterov", **common)
    sgd.register_step_pre_hook(_start_late_momenta)
    return sgd


def _start_late_momenta(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Give a momentum of zero to parameters that have a gradient for the first time in a later step.

    torch's fused SGD takes the momenta of all parameters or of none. PCB+RPP assigns positions to parts only in its
    second stage, so that these parameters are late.
    """
    for group in optimizer.param_groups:
        trained = [one for one in group["params"] if one.grad is not None]
        late = [one for one in trained if "momentum_buffer" not in optimizer.state[one]]
        if len(late) < len(trained):
            for one in late:
                optimizer.state[one]["momentum_buffer"] = torch.zeros_like(one.grad)


def losses(output: Output, labels: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """The total loss and its parts: identity and triplet loss, each summed or averaged over the heads, and alignment.

    Eq. 5-8. With triplet=False there is no triplet loss, and with alignment=none no alignment.

    Raises:
        UserError: alignment pam-self and a network without a position activation module.
    """
    smoothing, margin = recipe.losses.label_smoothing, recipe.losses.identity_margin
    joined = torch.sum if recipe.losses.over_heads == "sum" else torch.mean
    identity = joined(torch.stack([identity_loss(one, labels, smoothing, margin) for one in output.logits]))
    total, parts = identity, {"identity": identity}
    if recipe.losses.triplet:
        least = None if recipe.losses.soft_margin else recipe.losses.margin
        normalize = recipe.losses.normalize_triplet
        of_heads = [triplet_loss(one, labels, least, normalize=normalize) for one in output.embeddings]
        parts["triplet"] = joined(torch.stack(of_heads))
        total = total + parts["triplet"]
    if recipe.losses.alignment != "none":
        parts["alignment"] = alignment_loss(
            output.feature_map,
            labels,
            recipe.losses.alignment,
            activation=output.activation,
            partner_grid=recipe.losses.alignment_grid == "partner",
            self_pairs=recipe.losses.alignment_self_pairs,
            per_pair=recipe.losses.alignment_per_pair,
        )
        total = total + recipe.losses.alignment_weight * parts["alignment"]
    return {"loss": total, **parts}


def forward(model: nn.Module, images: Tensor, recipe: Recipe) -> Output:
    """Output of the network in at least fp32; with precision bf16 the network runs under autocast."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        output: Output = model(images)
    activation = None if output.activation is None else at_least_float(output.activation)
    return Output(
        tuple(at_least_float(one) for one in output.logits),
        tuple(at_least_float(one) for one in output.embeddings),
        at_least_float(output.feature_map),
        activation,
    )


def gather(output: Output, *, feature_map: bool) -> Output:
    """Outputs of all processes for the whole batch; the feature map is large and gathered only on request."""
    return Output(
        tuple(distributed.gather(one) for one in output.logits),
        tuple(distributed.gather(one) for one in output.embeddings),
        distributed.gather(output.feature_map) if feature_map else output.feature_map,
        None if output.activation is None else distributed.gather(output.activation),
    )
