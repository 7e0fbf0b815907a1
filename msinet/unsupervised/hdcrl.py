"""HDCRL (Cheng et al., 2022): hybrid dynamic contrast with the memory, and distillation by a teacher."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msinet.training.fit import Values
from msinet.unsupervised.losses import contrast, hardest_similarities, mean_similarities
from msinet.unsupervised.task import Conditions, InstanceTask, Unlabelled
from msinet.unsupervised.teacher import average, frozen


class StudentAndTeacher(nn.Module):
    """A network and its moving average."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, frozen(copy.deepcopy(student))


class HybridContrast(InstanceTask):
    """The student learns from the hardest rows of each cluster and from the teacher's view of the same images.

    The result is the teacher; the released code keeps the better of the two on the test set. Without `distillation`,
    loss and result are those of the released USL trainer: it never updates its teacher, so the result is the student.
    """

    def __init__(self, network: nn.Module, images: Unlabelled, conditions: Conditions) -> None:
        self.pair = StudentAndTeacher(network)
        super().__init__(self.pair, images, conditions)
        self.second_view = self.batches_of(images.pixels, 1, self.batches.resident)
        self.taken = 0
        """steps so far"""

    @property
    def trained(self) -> nn.Module:
        """The teacher; without distillation the student."""
        return self.pair.teacher if self.settings.distillation else self.pair.student

    def begin_epoch(self, epoch: int, step: int) -> dict[str, float]:
        """Begin the epoch for both views."""
        row = super().begin_epoch(epoch, step)
        self.second_view.begin(self.batches.plan, epoch, step)
        return row

    def step(self, epoch: int, step: int) -> Values:
        """Train the student (contrast and distillation), then update memory and teacher."""
        del epoch, step
        (images, positions), (others, _) = self.batches.next(), self.second_view.next()
        targets = self.targets[positions]
        features = F.normalize(self.embed(self.pair.student, images).feature)  # (B, D)
        logits = self.logits(features, targets)
        parts = {"contrast": contrast(logits, targets)}
        if self.settings.distillation:
            with torch.no_grad():
                theirs = F.normalize(self.embed(self.pair.teacher, others).feature)  # (B, D)
            parts["distillation"] = self.distillation(features, theirs)
        loss = torch.stack(list(parts.values())).sum()
        self.optimize(loss)
        self.rows.update(features, positions)
        if self.settings.distillation:
            average(self.pair.teacher, self.pair.student, self.decay(self.taken))
            self.taken += 1
        accuracy = (logits.argmax(1) == targets).float().mean()
        return {"loss": loss.detach()} | {name: part.detach() for name, part in parts.items()} | {"accuracy": accuracy}

    def logits(self, features: Tensor, own: Tensor) -> Tensor:
        """Cosine with the hardest row of each label, over the temperature."""
        similarities = features @ self.rows.centres.clone().T  # (B, N); a clone: rows change before backward
        return hardest_similarities(similarities, self.targets, own, self.count) / self.rows.temperature

    def distillation(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Squared differences between both networks' cluster probabilities, summed over batch and clusters.

        The sum is divided by the number of clusters with several images. Without such clusters it is 0.
        """
        several = torch.bincount(self.targets, minlength=self.count) > 1  # (labels,)
        if not several.any():
            return student.new_zeros(())
        both = mean_similarities(torch.cat([student, teacher]), self.rows.centres, self.targets, self.count)
        first, second = (both[:, several] / self.rows.temperature).softmax(1).chunk(2)  # (B, clusters) each
        return (first - second).square().sum() / several.sum()

    def decay(self, step: int) -> float:
        """Decay of the teacher after a step, from 0: `teacher_decay` before the warm-up step, then 0 rising to it."""
        start, most = self.settings.teacher_warmup, self.settings.teacher_decay
        return most if step < start else min(1 - 1 / (step - start + 1), most)

    def state_dict(self) -> dict[str, Any]:
        """The state, with the number of steps."""
        return super().state_dict() | {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.taken = state["taken"]
