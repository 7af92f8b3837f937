"""Does the machine have what ``site.toml`` promises to the trainers: GPUs, cores, memory, disk?"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_client.doctor.finding import Finding, fail, ok, warn
from fl_shared.site import Resources, Site

GIB = 2**30
RUNTIME = 1 * GIB  # Ray, Flower and the site runtime, measured about 0.9 GiB
ACTOR, ACTOR_AMPLE = 1 * GIB, 2 * GIB  # torch and a small model; with the arrays of a real cohort
LEAST_STATE, AMPLE_STATE = GIB // 2, 5 * GIB
LEAST_CACHE = 1 * GIB
GPU_FREE = 2 * GIB
CONTROL_GROUP = Path("/sys/fs/cgroup")  # of this process, as a container sees it


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that torch sees; memory in bytes."""

    name: str
    free: int
    total: int


def seen_gpus() -> Sequence[Gpu]:
    """The GPUs that torch can use here."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Gpu(name=torch.cuda.get_device_name(index), free=int(free), total=int(total)))
    return found


def gpus(plan: Resources, *, seen: Sequence[Gpu]) -> Finding:
    """GPUs that torch sees against ``[resources]``."""
    named = ", ".join(f"{gpu.name} ({gpu.free / GIB:.0f} of {gpu.total / GIB:.0f} GiB free)" for gpu in seen) or "none"
    if plan.gpus > 1 and plan.gpus != int(plan.gpus):
        return fail("GPUs", f"{plan.gpus:g} asked for each actor", "Above 1, resources.gpus must be a whole number.")
    needed = _gpus_needed(plan)
    if len(seen) < needed:
        mend = (
            "Lower resources.actors or resources.gpus; or install the GPU's driver and a torch built for CUDA "
            "(nvidia-smi and torch.cuda.is_available() tell which is missing)."
        )
        return fail("GPUs", f"{needed} needed, torch sees {len(seen)}: {named}", mend)
    if seen and not needed:
        return warn("GPUs", f"unused: {named}", "Set resources.gpus = 1.0 to train on them.")
    if occupied := [gpu for gpu in seen if gpu.free < GPU_FREE]:
        mend = "Another process holds their memory (nvidia-smi): end it, or choose GPUs with CUDA_VISIBLE_DEVICES."
        return warn("GPUs", f"{len(occupied)} nearly full: {named}", mend)
    return ok("GPUs", named if seen else "none asked for, none seen")


def _gpus_needed(plan: Resources) -> int:
    if plan.gpus == 0:
        return 0
    if plan.gpus > 1:
        return plan.actors * int(plan.gpus)
    return math.ceil(plan.actors / math.floor(1 / plan.gpus + 1e-9))  # an actor's share lies on one GPU


def usable_cores() -> int:
    """Cores that this process may use: of the machine, or fewer where a control group limits its time."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = (CONTROL_GROUP / "cpu.max").read_text().split()
    except OSError:
        return cores  # no limit of its own (or control groups of the first kind)
    return cores if quota == "max" else min(cores, max(1, int(quota) // int(period)))


def processors(plan: Resources, *, cores: int) -> Finding:
    """Threads of all actors against cores."""
    found = f"{plan.actors} actor(s) of {plan.threads} thread(s), {cores} core(s)"
    if plan.actors * plan.threads > cores:
        return warn("CPU", found, "More threads than cores slow one another: lower resources.threads or actors.")
    return ok("CPU", found)


def available_memory() -> int:
    """Bytes that can still be used: of the machine, or less where a control group limits this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit, used = ((CONTROL_GROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def memory(plan: Resources, *, available: int) -> Finding:
    """Memory for the runtime and every actor."""
    least, ample = RUNTIME + plan.actors * ACTOR, RUNTIME + plan.actors * ACTOR_AMPLE
    found = f"{available / GIB:.1f} GiB available, {plan.actors} actor(s)"
    if available < least:
        return fail("memory", f"{found}: {least / GIB:.0f} GiB needed", "Lower resources.actors, or add memory.")
    if available < ample:
        mend = f"Enough for small models; {ample / GIB:.0f} GiB would be comfortable."
        return warn("memory", found, mend)
    return ok("memory", found)


def cache_room(site: Site) -> int:
    """Bytes that the cache may still grow by."""
    folder = site.cache_dir
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
    return max(LEAST_CACHE, round(site.cache.max_gib * GIB) - held)


def disk(check: str, folder: Path, *, least: int, ample: int) -> Finding:
    """Free bytes where ``folder`` is, or will be made: ``least`` are needed, ``ample`` are comfortable."""
    there = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    free = shutil.disk_usage(there).free
    found = f"{free / GIB:.1f} GiB free at {there}"
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(check, f"{there} is not writable", "Give its ownership to the user that runs fl-client.")
    if free < least:
        mend = "A full disk stops the site in the middle of a round: free space, or move the folder in site.toml."
        return fail(check, f"{found}, {least / GIB:.1f} GiB needed", mend)
    if free < ample:
        return warn(check, f"{found}, up to {ample / GIB:.1f} GiB will be used", "Free some space soon.")
    return ok(check, found)
