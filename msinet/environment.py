"""Records versions, machine, device and memory allocator. Importing this module does not import torch."""

import functools
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from msinet import __version__
from msinet.errors import UserError

if TYPE_CHECKING:
    import torch

#: By default glibc returns blocks above 32 MB to the system at once, and the page faults of new ones cost more than the
#: arithmetic of a light network. These settings keep freed memory in the process.
TUNABLES = "glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=17179869184:glibc.malloc.mmap_max=0"


#: Spins of an OpenMP thread that waits for the others, before it sleeps. With the default (hundreds of thousands), two
#: threads on two cores stall when another program needs a core. docs/performance.md has times of a step.
SPINS = "1000"


def tune_process() -> None:
    """Restart this process with `TUNABLES` and `SPINS`, which glibc and OpenMP read only when a process starts.

    Does nothing outside Linux, if GLIBC_TUNABLES is set (an empty value opts out), and in a process that was not
    started from a command line. The user's GOMP_SPINCOUNT and OMP_WAIT_POLICY are kept. Call this before heavy imports;
    the restart takes about 0.1 s.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ and sys.orig_argv:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


#: Names in a description of the environment, in order; the last two appear only if they apply.
DESCRIBED = (
    *("code", "python", "torch", "torchvision", "numpy", "platform", "cpu", "threads", "device", "allocator"),
    *("processes", "deterministic"),
)


@functools.cache
def code_version() -> str:
    """The package version and, in a git checkout, the commit, with `-dirty` for uncommitted changes."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, check=False
        )
        commit = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return __version__
    # A checkout that only contains an installed copy has another history.
    if tracked.returncode or commit.returncode:
        return __version__
    return f"{__version__}+{commit.stdout.strip()}"


@functools.cache
def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(device: "torch.device") -> dict[str, str | int]:
    """A flat description of versions and machine, for records, by the names in `DESCRIBED`."""
    import torch

    from msinet.distributed import world

    return {
        "code": code_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "allocator": "tuned" if os.environ.get("GLIBC_TUNABLES") == TUNABLES else "default",
        **({"processes": world()} if world() > 1 else {}),
        **({"deterministic": "yes"} if torch.are_deterministic_algorithms_enabled() else {}),
    }


def pick_device(name: str) -> "torch.device":
    """The device of that name; `auto` is the first GPU, else the CPU. Each of several processes gets its own GPU.

    A GPU that is named by its number becomes torch's current one, to which streams and counters belong by default.

    Raises:
        UserError: the name is not a device, or this machine has no such device.
    """
    import torch

    from msinet.distributed import world

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if world() > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise UserError(f"several processes cannot share {name}; use cuda, and each takes its own GPU")
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); use cpu, cuda, cuda:N or auto"
        ) from error
    return device
