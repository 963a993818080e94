"""Which process of how many this is: torchrun's variables, or those of srun and mpirun.

A task of srun or mpirun that took itself for a world of one would write over its siblings' run. So
their variables are read, and where they tell half of it, it is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# launcher, rank, number of tasks, rank on the host
_TASKS = (
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("mpirun (PMI)", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)  # fmt: skip


def read_launcher(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that a launcher has started.

    srun's and mpirun's variables are translated into torchrun's, in `environment`. Raises
    RuntimeError, naming what is missing, if they do not tell where rank 0 is.
    """
    if "RANK" in environment:
        missing = [name for name in _NEEDED if name not in environment]
        if missing:
            raise RuntimeError(
                f"ParallelContext: RANK is set but {', '.join(missing)} is not; start with "
                "torchrun, or unset RANK to run as a single process"
            )
        return True
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            f"ParallelContext: WORLD_SIZE is {environment['WORLD_SIZE']} but RANK is not set; "
            "start with torchrun, or unset WORLD_SIZE to run as a single process"
        )
    for launcher, rank, size, local in _TASKS:
        number = _tasks(environment, rank, size)
        if number > 1:
            _translate(environment, launcher, environment.get(rank), number, environment.get(local))
            return True
    return False


def _tasks(environment: Mapping[str, str], rank: str, size: str) -> int:
    """Number of tasks; a rank above 0 without it is one of at least so many."""
    if size in environment:
        return int(environment[size])
    if int(environment.get(rank, "0")) == 0:
        return 1  # sbatch's own script is such a task
    return int(environment.get("SLURM_NTASKS", int(environment[rank]) + 1))


def _translate(
    environment: MutableMapping[str, str],
    launcher: str,
    rank: str | None,
    number: int,
    local: str | None,
) -> None:
    address = environment.get("MASTER_ADDR") or _first_host(environment)
    port = environment.get("MASTER_PORT") or _port_of_job(environment)
    facts = {"its rank": rank, "MASTER_ADDR": address, "MASTER_PORT": port}
    missing = [name for name, value in facts.items() if value is None]
    if missing:
        raise RuntimeError(
            f"ParallelContext: {launcher} says that this is one of {number} tasks, but "
            f"{' and '.join(missing)} cannot be told from the environment; export MASTER_ADDR "
            "(the first host) and MASTER_PORT (a free port), the same for all tasks, or RANK=0 "
            "WORLD_SIZE=1 with them for a single process"
        )
    environment |= {"RANK": str(rank), "WORLD_SIZE": str(number), "LOCAL_RANK": local or "0",
                    "MASTER_ADDR": str(address), "MASTER_PORT": str(port)}  # fmt: skip


def _first_host(environment: Mapping[str, str]) -> str | None:
    """The first host of a SLURM list such as `gpu[007-9,12],fat1`; for mpirun on one host, that."""
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if hosts:
        found = re.match(r"([^,\[]+)(?:\[(\w+))?", hosts)
        return "".join(part or "" for part in found.groups()) if found else None
    size, local = (environment.get(f"OMPI_COMM_WORLD_{name}") for name in ("SIZE", "LOCAL_SIZE"))
    return "127.0.0.1" if size is not None and size == local else None


def _port_of_job(environment: Mapping[str, str]) -> str | None:
    """A port that tasks of one SLURM job step agree on and those of another do not meet."""
    if "SLURM_JOB_ID" not in environment or "SLURM_STEP_NODELIST" not in environment:
        return None
    step = environment.get("SLURM_STEP_ID", "0")
    number = int(environment["SLURM_JOB_ID"]) * 13 + (int(step) if step.isdigit() else 0)
    return str(15000 + number % 40000)
