"""One training in several processes that `torchrun` starts, one per GPU; CPUs work too.

Every process (rank) holds the whole network and its share of the identities of each batch. Features and labels are
gathered, so that every rank computes the loss of the whole batch; batch norms normalise by the whole batch; and
gradients are summed. N processes therefore equal one process with the same batch, up to the order of sums.

Gradients are summed here rather than by DistributedDataParallel, which fixes the set of trained parameters when it
is built: a search changes it twice in each iteration. DDP also averages gradients of separate losses, but triplets,
memories and alignment need one loss of the whole batch.

With one process these functions do nothing or return at once.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from msinet.errors import LostProcess, UserError, first_line

#: The first rank may decode a large data set while the others wait. A process that ends is noticed at once.
PATIENCE = timedelta(hours=3)
_store: Any = None


def start() -> None:
    """Join the processes that `torchrun` started; without it, or with one process, do nothing.

    Tensors on GPUs travel by NCCL, those on CPUs by Gloo.
    """
    if dist.is_initialized() or not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return
    with _together():
        store, number, count = next(rendezvous("env://", timeout=PATIENCE))
        join(store, number, count)


def join(store: Any, number: int, count: int) -> None:
    """Become rank `number` of `count` processes that share `store`, a `torch.distributed.Store`."""
    global _store
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    _store = PrefixStore("msinet", store)
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=number, world_size=count, timeout=PATIENCE)


def stop() -> None:
    """Leave the group. All ranks call this at the end."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Return whether this is rank 0, which alone writes files and shows progress."""
    return rank() == 0


def first_to_fail() -> bool:
    """Return whether this rank failed before all others and should report its error. Call this once."""
    if _store is None or world() == 1:
        return True
    try:
        return bool(_store.add("failed", 1) == 1)
    except RuntimeError:  # the store ended with the process that failed
        return False


# --- Agreement -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of Gloo, NCCL or the store
        raise LostProcess(
            f"rank {rank()} lost the other processes of this training ({first_line(error)}); "
            "the same command continues from the last checkpoint"
        ) from error


def any_rank(flag: bool) -> bool:
    """Return whether the flag is set on any rank. All ranks call this."""
    if world() == 1:
        return flag
    flags = torch.tensor(int(flag))  # on the CPU, so that a GPU need not synchronise
    with _together():
        dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def barrier() -> None:
    """Wait for all ranks."""
    any_rank(False)


@contextlib.contextmanager
def leader_first() -> Iterator[None]:
    """Rank 0 runs the block, then the others: they find the files that it wrote."""
    if not leads():
        barrier()
    yield
    if leads():
        barrier()


def check_agreement(value: object, what: str) -> None:
    """Check that all ranks hold the same value, compared as text.

    Raises:
        UserError: the values differ; the message starts with `what`.
    """
    if world() == 1:
        return
    digest = hashlib.sha256(str(value).encode()).digest()
    mine = torch.tensor(int.from_bytes(digest[:7], "big"))
    low, high = mine.clone(), mine.clone()
    with _together():
        dist.all_reduce(low, dist.ReduceOp.MIN)
        dist.all_reduce(high, dist.ReduceOp.MAX)
    if low != high:
        raise UserError(f"{what} differ between the processes; they need the same code, data and output folder")


# --- Batches and random numbers ------------------------------------------------------------------


def check_batch(identities: int) -> None:
    """Raise a `UserError` unless the number of processes divides the identities of a batch."""
    if identities % world():
        raise UserError(
            f"a batch of {identities} identities cannot be shared among {world()} processes, because an identity is "
            f"never split; use a number of processes that divides {identities}, or --recipe identities=N"
        )


def share(count: int) -> slice:
    """This rank's rows of a batch with `count` rows: equal parts, in order."""
    part = count // world()
    return slice(rank() * part, (rank() + 1) * part)


def reseed(seed: int, epoch: int, step: int) -> None:
    """Seed each rank's own random numbers of a step (dropout, drop path), independent of interruptions.

    One process keeps its generator as it is.
    """
    if world() > 1:
        digest = hashlib.sha256(f"{seed} {epoch} {step} {rank()}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:7], "big"))


# --- Tensors -------------------------------------------------------------------------------------


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, mine: Tensor) -> Tensor:
        mine = mine.contiguous()
        parts = [torch.empty_like(mine) for _ in range(world())]
        with _together():
            dist.all_gather(parts, mine)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[share(len(gradient))]


def gather(mine: Tensor) -> Tensor:
    """The rows of all ranks, in their order: (B, ...) to (world * B, ...).

    Every rank then computes the same loss of the whole batch and gets the same gradient. It keeps its own rows, which
    are the exact gradient of that loss, without communication. (`torch.distributed.nn.functional.all_gather` would sum
    the gradients over the ranks, which is `world` times too large.) Sum the gradients of the parameters afterwards
    (`sum_gradients`).
    """
    if world() == 1:
        return mine
    rows: Tensor = _Gather.apply(mine)
    return rows


def gather_batch(mine: Tensor, batch_size: int) -> Tensor:
    """Results of all ranks for their test batches of one turn, in order: (B, D) to (world * batch_size, D).

    Only the last batch is shorter than `batch_size`; it is padded with zeros at the end.
    """
    if world() == 1:
        return mine
    return gather(F.pad(mine, (0, 0, 0, batch_size - len(mine))))


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their sums over the ranks, with one message."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _together():
        dist.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their means over the ranks, so that a later `sum_gradients` gives their sum."""
    if world() == 1:
        return
    parameters = list(parameters)
    sum_gradients(parameters)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= world()


# --- Batch norm ----------------------------------------------------------------------------------


class _Normalize(torch.autograd.Function):
    """Batch norm by the statistics of all ranks' rows; every rank has the same number of rows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:  # x: (B, C, ...); mean and variance: (C,)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.dim())]
        var, mean = torch.var_mean(wide, dims, correction=0)
        statistics = torch.stack([mean, var])
        parts = [torch.empty_like(statistics) for _ in range(world())]
        with _together():
            dist.all_gather(parts, statistics)
        means, variances = torch.stack(parts).unbind(1)  # (world, C) each
        # Not the mean of squares less the square of the mean: that cancels where the mean is large.
        mean, var = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(wide, mean, var, weight, bias, eps=eps).to(x.dtype), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.dim() - 2))
        dims = [0, *range(2, x.dim())]
        wide = gradient.to(mean.dtype)
        unit = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        own = torch.stack([wide.sum(dims), (wide * unit).sum(dims)])  # of bias and weight: (2, C)
        whole = own.clone()
        with _together():
            dist.all_reduce(whole)
        whole /= world() * (x.numel() // x.shape[1])
        inner = wide - whole[0].view(shape) - unit * whole[1].view(shape)
        # Only this rank's part for the parameters: `sum_gradients` sums all parameter gradients later.
        return (inner * (weight * scale).view(shape)).to(x.dtype), own[1], own[0], None


class SharedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all ranks together, with parameters and buffers of `nn.BatchNorm1d` and `2d`.

    torch's SyncBatchNorm works only on GPUs. This one works on CPUs too, so it can be tested without GPUs. In
    evaluation it is an ordinary batch norm.
    """

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Accept vectors and maps."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """(B, C) or (B, C, H, W), B the same on all ranks."""
        if not self.training:
            return super().forward(input)
        output, mean, var = _Normalize.apply(input, self.weight, self.bias, self.eps)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = world() * (input.numel() // input.shape[1])
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        result: Tensor = output
        return result


def share_batch_norms(network: nn.Module) -> None:
    """Turn the batch norms of a network into shared ones, in place; parameters and buffers stay the same tensors."""
    if world() == 1:
        return
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                setattr(module, name, _shared(child))


def _shared(norm: _BatchNorm) -> SharedBatchNorm:
    shared = SharedBatchNorm(norm.num_features, norm.eps, norm.momentum, device="meta")
    shared._parameters, shared._buffers = norm._parameters, norm._buffers
    return shared.train(norm.training)
