"""GS: group sampling (Han et al., 2022), with the hybrid memory of SpCL and without its reliability criterion."""

from msinet.unsupervised.samplers import group_batches
from msinet.unsupervised.task import InstanceTask


class GroupSampling(InstanceTask):
    """A batch is compared with the mean of each cluster's rows in the memory; outliers are clusters of one image."""

    def plan(self, epoch: int) -> list[list[int]]:
        """Batches of groups."""
        sampler = self.recipe.sampler
        return group_batches(
            self.labels, self.settings.group, sampler.batch, seed=self.seed, epoch=epoch, steps=sampler.steps_per_epoch
        )
