"""Which process of how many this is: torchrun's variables, or those of srun, mpirun and others.

A task of a launcher that took itself for a world of one would write over its siblings' run. So
their variables are read, and where they tell half of it, it is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class _Launcher(NamedTuple):
    """Names of its variables: rank, number of tasks (some tell none), rank on the host."""

    name: str
    rank: str
    size: str | None
    local: str


_LAUNCHERS = (
    _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    _Launcher("mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
              "OMPI_COMM_WORLD_LOCAL_RANK"),
    _Launcher("mpirun (MVAPICH)", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
              "MV2_COMM_WORLD_LOCAL_RANK"),
    _Launcher("mpirun (PMI)", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    _Launcher("flux run", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID"),
    _Launcher("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    _Launcher("mpiexec (PALS)", "PALS_RANKID", None, "PALS_LOCAL_RANKID"),
    _Launcher("aprun", "ALPS_APP_PE", None, ""),
    _Launcher("a PMIx launcher", "PMIX_RANK", None, ""),
)  # fmt: skip
_ALONE = "RANK=0 WORLD_SIZE=1 with them for a single process"


def read_launcher(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that a launcher has started.

    The variables of srun, mpirun and others are translated into torchrun's, in `environment`.
    Raises RuntimeError, naming what is missing or no number, if they do not tell the whole.
    """
    if "RANK" in environment:
        _check_torchruns(environment)
        return True
    if (_number(environment, "WORLD_SIZE") or 1) > 1:
        raise RuntimeError(
            f"ParallelContext: WORLD_SIZE is {environment['WORLD_SIZE']} but RANK is not set; "
            "start with torchrun, or unset WORLD_SIZE to run as a single process"
        )
    told = False
    for launcher in _LAUNCHERS:
        tasks = _tasks(environment, launcher)
        if tasks is None:
            continue
        if tasks > 1 or (tasks == 0 and not told):
            _translate(environment, launcher, tasks)
            return True
        told = True
    for name, most in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)):
        if (_number(environment, name) or 0) > most:
            raise RuntimeError(
                f"ParallelContext: {name} is {environment[name]} but RANK is not set; start with "
                f"torchrun, or unset {name} to run as a single process"
            )
    return False


def _check_torchruns(environment: Mapping[str, str]) -> None:
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise RuntimeError(
            f"ParallelContext: RANK is set but {', '.join(missing)} is not, or empty; start "
            "with torchrun, or unset RANK to run as a single process"
        )
    rank, size, port = (
        _number(environment, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")
    )
    if not 0 <= (rank or 0) < (size or 0):
        raise RuntimeError(
            f"ParallelContext: RANK must be in [0, WORLD_SIZE), got {rank} of {size}; start with "
            "torchrun, which sets both"
        )
    least = 0 if size == 1 else 1  # 0, any free port, is one that others would not know
    if not least <= (port or 0) < 1 << 16:
        raise RuntimeError(
            f"ParallelContext: MASTER_PORT must be in [{least}, 65535], got {port}; export a free "
            "port, the same for all tasks"
        )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    try:
        return int(text) if text else None
    except ValueError:
        raise RuntimeError(f"ParallelContext: {name} must be a number, got {text!r}") from None


def _tasks(environment: Mapping[str, str], launcher: _Launcher) -> int | None:
    """Number of tasks: None where the launcher started none, 0 where there may be others, but
    nothing says how many.
    """
    size = _number(environment, launcher.size) if launcher.size else None
    if size is not None:
        return size
    rank = _number(environment, launcher.rank)
    if rank is None:
        return None
    if launcher.name != "srun":
        return 0
    # sbatch's own script is rank 0 too, in no step; Slurm before 14.11 tells a step's tasks so
    in_step = rank > 0 or "SLURM_STEP_ID" in environment
    return (_number(environment, "SLURM_NTASKS") or 0) if in_step else 1


def _translate(environment: MutableMapping[str, str], launcher: _Launcher, tasks: int) -> None:
    rank, local = (_number(environment, name) for name in (launcher.rank, launcher.local))
    address = environment.get("MASTER_ADDR") or _first_host(environment)
    port = environment.get("MASTER_PORT") or _port_of_job(environment)
    facts = {"its rank": rank, "their number": tasks or None, "MASTER_ADDR": address,
             "MASTER_PORT": port}  # fmt: skip
    missing = [name for name, value in facts.items() if value is None]
    if missing:
        raise RuntimeError(
            f"ParallelContext: {launcher.name} says that this is one of {tasks or 'several'} "
            f"tasks, but {' and '.join(missing)} cannot be told from the environment; export "
            "MASTER_ADDR (the first host) and MASTER_PORT (a free port), the same for all tasks, "
            f"and where it is missing RANK and WORLD_SIZE, or {_ALONE}"
        )
    environment |= {"RANK": str(rank), "WORLD_SIZE": str(tasks), "LOCAL_RANK": str(local or 0),
                    "MASTER_ADDR": str(address), "MASTER_PORT": str(port)}  # fmt: skip
    _check_torchruns(environment)


def _first_host(environment: Mapping[str, str]) -> str | None:
    """The first host of a SLURM list such as `gpu[007-9,12]-ib,fat1`; for mpirun on one host,
    that.
    """
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if hosts:
        first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", hosts)
        return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group()) if first else None
    size, local = (environment.get(f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "LOCAL_SIZE"))
    return "127.0.0.1" if size is not None and size == local else None


def _port_of_job(environment: Mapping[str, str]) -> str | None:
    """A port that tasks of one SLURM job step agree on and those of another do not meet."""
    if "SLURM_JOB_ID" not in environment or "SLURM_STEP_NODELIST" not in environment:
        return None
    step = environment.get("SLURM_STEP_ID", "0")
    number = int(environment["SLURM_JOB_ID"]) * 13 + (int(step) if step.isdigit() else 0)
    return str(15000 + number % 40000)
