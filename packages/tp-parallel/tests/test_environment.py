"""Tasks of srun, mpirun and others are counted; what tells half of it is refused."""

import pytest

from tp_parallel.grid.launcher import read_launcher

SRUN = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": "gpu[007-9,12],fat1"}  # fmt: skip
MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}
WHOLE = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


def test_srun_is_read_and_all_tasks_of_a_step_agree_on_address_and_port():
    tasks = [dict(SRUN, SLURM_PROCID=str(r)) for r in range(4)]
    assert all(read_launcher(task) for task in tasks)
    assert [task["RANK"] for task in tasks] == ["0", "1", "2", "3"]
    assert {task["WORLD_SIZE"] for task in tasks} == {"4"}
    assert {task["MASTER_ADDR"] for task in tasks} == {"gpu007"}
    assert len({task["MASTER_PORT"] for task in tasks}) == 1
    assert tasks[0]["LOCAL_RANK"] == "1"
    for nodes, first in (("a1", "a1"), ("a1,b2", "a1"), ("n[3]", "n3"), ("n[03-04]", "n03"),
                         ("n[01-02]-ib,x", "n01-ib"), ("r[1,3]n[3-4]", "r1n3")):  # fmt: skip
        task = dict(SRUN, SLURM_STEP_NODELIST=nodes)
        read_launcher(task)
        assert task["MASTER_ADDR"] == first


def test_mpirun_is_read():
    task = dict(MPI, OMPI_COMM_WORLD_LOCAL_SIZE="4", MASTER_PORT="29500")
    assert read_launcher(task)
    assert (task["RANK"], task["WORLD_SIZE"], task["LOCAL_RANK"]) == ("2", "4", "2")
    assert task["MASTER_ADDR"] == "127.0.0.1"
    assert read_launcher({"PMI_RANK": "1", "PMI_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({k: v for k, v in SRUN.items() if "NODELIST" not in k}, "srun says .* one of 4 tasks"),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, "srun says .* one of 4 tasks"),
        (MPI, "mpirun .Open MPI. says .* MASTER_ADDR and MASTER_PORT cannot be told"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "mpirun .PMI. says .* one of 2 tasks"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 but RANK is not set"),
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not"),
        ({"RANK": "", "WORLD_SIZE": ""}, "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not"),
        (dict(WHOLE, RANK="x"), "RANK must be a number, got 'x'"),
        (dict(WHOLE, RANK="4"), "RANK must be in .0, WORLD_SIZE., got 4 of 4"),
        (dict(WHOLE, MASTER_PORT="http"), "MASTER_PORT must be a number"),
        (dict(WHOLE, MASTER_PORT="0"), "MASTER_PORT must be in .1, 65535., got 0"),
        (dict(WHOLE, MASTER_PORT="65536"), "MASTER_PORT must be in .1, 65535., got 65536"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK is 3 but RANK is not set"),
        ({"LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "0"}, "LOCAL_WORLD_SIZE is 4 but RANK is not"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, "one of 4 tasks"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "its rank and MASTER_ADDR and MASTER_PORT cannot be told"),
        ({"SLURM_STEP_NUM_TASKS": "4(x2)"}, "SLURM_STEP_NUM_TASKS must be a number"),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, "MVAPICH. says .* one of 2"),
        ({"FLUX_TASK_RANK": "0", "FLUX_JOB_SIZE": "2"}, "flux run says .* one of 2"),
        ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"}, "jsrun says .* one of 2"),
        ({"PALS_RANKID": "1"}, "PALS. says .* one of several .* their number"),
        ({"ALPS_APP_PE": "1"}, "aprun says .* one of several .* their number"),
        ({"PMIX_RANK": "0"}, "PMIx launcher says .* one of several .* their number"),
        (dict(MPI, OMPI_COMM_WORLD_RANK="5", MASTER_ADDR="a", MASTER_PORT="1"), "got 5 of 4"),
    ],
)
def test_half_an_environment_is_refused_and_not_taken_for_a_world_of_one(environment, message):
    with pytest.raises(RuntimeError, match=message):
        read_launcher(dict(environment))


@pytest.mark.parametrize(
    "environment",
    [{}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"},
     {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, {"OMPI_COMM_WORLD_SIZE": "1"},
     {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"}, {"LOCAL_RANK": "0"},
     {"WORLD_SIZE": ""}],
)  # fmt: skip
def test_a_single_process_stays_one(environment):
    assert not read_launcher(dict(environment))
