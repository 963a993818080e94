"""The doctor, environment files and the notebook kernel, on this machine and on imagined ones."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from convlstm import environment, pins
from convlstm.__main__ import main
from convlstm.doctor import OK, WRONG, Machine, best_cuda, diagnose, inspect_machine
from convlstm.pins import Pins, read_pins, satisfies

PINS = Pins(("3.10", "3.11", "3.12"), ">=2.6", ">=9,<10", ("12.9", "13.0"))
GOOD = Machine(
    python="3.11.4", system="Linux x86_64", torch="2.13.0+cu130", torch_cuda="13.0",
    cudnn="9.13.0", driver_cuda="13.1", gpus=("NVIDIA H200",), capabilities=("90",),
    kernels="90-real", isa="avx2", cpu_error=1e-7, gpu_error=1e-6,
)  # fmt: skip


def wrong(**changes):
    found = diagnose(dataclasses.replace(GOOD, **changes), PINS)
    return {f.what: f.cure for f in found if f.state == WRONG}


def test_a_machine_that_fits_needs_no_cure():
    found = diagnose(GOOD, PINS)
    assert {f.state for f in found} == {OK}
    assert not any(f.cure for f in found)


def test_each_mismatch_has_its_own_conda_line():
    cuda13 = '"convlstm=0.1.0=cuda130*" "pytorch>=2.6=cuda*" "cuda-version=13.0" "cudnn>=9,<10"'
    assert wrong(torch="2.1.0") == {"torch": f"conda install -c conda-forge {cuda13}"}
    assert wrong(cudnn="8.9.7") == {"cuDNN": f"conda install -c conda-forge {cuda13}"}
    assert wrong(python="3.8.1") == {"python": 'conda install "python=3.12"'}
    # torch is newer than the driver: the CUDA that the driver runs
    (cure,) = wrong(driver_cuda="12.4").values()
    assert "cuda129" in cure
    assert "cuda-version=12.9" in cure
    # a GPU machine with a CPU torch
    changes = {"torch": "2.13.0+cpu", "torch_cuda": None, "cudnn": None, "gpus": ()}
    assert wrong(**changes) == {"CUDA": f"conda install -c conda-forge {cuda13}"}
    # a driver too old for any pinned CUDA
    assert "update the NVIDIA driver" in wrong(driver_cuda="11.8")["driver"]
    assert wrong(gpu_error=None).keys() == {"convolution on the GPU"}
    assert wrong(cpu_error=0.5).keys() == {"fused on the CPU"}


def test_a_machine_without_a_gpu_fits_the_cpu_build():
    none = {"torch_cuda": None, "cudnn": None, "driver_cuda": None, "gpus": (), "gpu_error": None}
    assert wrong(**none) == {}
    found = diagnose(dataclasses.replace(GOOD, driver_cuda=None, gpus=()), PINS)
    assert any("cpu*" in f.cure for f in found)


def test_the_newest_cuda_that_a_driver_runs_is_chosen():
    assert [best_cuda(PINS, d) for d in ("11.8", "12.1", "13.0", "14.0", None)] == [
        None, "12.9", "13.0", "13.0", None,
    ]  # fmt: skip


def test_the_pins_are_those_of_the_release():
    root = Path(__file__).resolve().parents[3]
    assert read_pins() == read_pins(root / "recipes" / "variants.yaml")
    found = read_pins()
    assert "3.11" in found.python
    assert found.torch.startswith(">=2.")
    assert all(pins.version(c) >= (12,) for c in found.cuda)


def test_a_damaged_pin_file_is_an_error(tmp_path):
    (tmp_path / "pins.yaml").write_text("python:\n  - 3.11\n")
    with pytest.raises(RuntimeError, match="cannot be read"):
        read_pins(tmp_path / "pins.yaml")


@pytest.mark.parametrize(
    ("text", "wanted", "fits"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.5.1", ">=2.6", False),
        ("9.13.0", ">=9,<10", True),
        ("10.0", ">=9,<10", False),
        ("8.9.7", ">=9,<10", False),
        ("3.10.2", "==3.10", True),
        ("2.10", ">=2.9", True),
    ],
)
def test_versions_are_compared_as_numbers(text, wanted, fits):
    assert satisfies(text, wanted) is fits


def test_the_doctor_finds_this_machine_sound(capsys):
    machine = inspect_machine()
    assert machine.cpu_error is not None
    assert machine.cpu_error < 1e-5
    code = main(["doctor", "--json"])
    result = json.loads(capsys.readouterr().out)
    states = [f["state"] for f in result["findings"]]
    assert code == int(WRONG in states)
    assert main(["doctor"]) == code
    assert "wanted: >=" in capsys.readouterr().out


def test_environment_files_carry_the_pins(capsys):
    assert main(["env", "--gpu", "--mirror", "https://mirror.example/conda-forge"]) == 0
    text = capsys.readouterr().out
    found = read_pins()
    assert f'"pytorch{found.torch}=cuda*"' in text
    assert f'"cuda-version={found.cuda[-1]}"' in text
    assert "  - https://mirror.example/conda-forge\n  - nodefaults" in text
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    assert "=cpu*" in text
    assert "cuda" not in text
    assert main(["env", "--mirror", "a b"]) == 1


def test_environment_files_for_tensorflow_tell_versions_and_windows(capsys):
    assert main(["env", "--tensorflow", "2.10", "--gpu"]) == 0
    old = capsys.readouterr().out
    assert '"python=3.10"' in old
    assert '"cudatoolkit=11.2"' in old
    assert "runs on the GPU natively" in old
    assert main(["env", "--tensorflow", "2.17", "--gpu"]) == 0
    assert "WSL2" in capsys.readouterr().out
    assert main(["env", "--tensorflow", "1.4"]) == 1
    assert "must be one of 2.0" in capsys.readouterr().err


BUILT = {"7.6", "8.0", "8.1", "8.2", "8.3", "8.4", "8.8", "8.9", "9.2", "9.3"}


@pytest.mark.parametrize("release", pins.TENSORFLOW)
def test_every_tensorflow_file_asks_for_what_exists(release):
    for gpu in (False, True):
        text = environment.tensorflow_environment(release, gpu)
        lines = [line.strip(' -"') for line in text.splitlines() if not line.startswith("#")]
        assert any(line.startswith("tensorflow") for line in lines)
        # Releases that were compiled against numpy 1 die on import with numpy 2.
        assert ("numpy<2" in lines) == (pins.version(release) < (2, 18))
        asked = [line.split("=")[1] for line in lines if line.startswith("cudnn=")]
        assert set(asked) <= BUILT
        assert "hecked: " in text
        assert text.startswith("# ")
        if gpu:
            by_pip = f"tensorflow[and-cuda]=={release}.*" in lines
            assert by_pip == (pins.version(release) >= (2, 14))
            assert by_pip != bool(asked)


def test_the_newest_releases_of_tensorflow_are_known():
    assert {"2.19", "2.20", "2.21"} <= set(pins.TENSORFLOW)


def test_the_kernel_is_registered_and_starts(tmp_path, capsys):
    pytest.importorskip("ipykernel")
    assert main(["kernel", "install", "--name", "test-convlstm", "--prefix", str(tmp_path)]) == 0
    assert "test-convlstm" in capsys.readouterr().out
    folder = tmp_path / "share" / "jupyter" / "kernels" / "test-convlstm"
    spec = json.loads((folder / "kernel.json").read_text())
    assert spec["display_name"].startswith("convlstm")
    spec["argv"][0] = "/bin/false"
    (folder / "kernel.json").write_text(json.dumps(spec))
    with pytest.raises(RuntimeError):
        environment.check_kernel(folder, seconds=10)


def test_a_result_that_nobody_takes_ends_in_one_sentence():
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "convlstm", "env"],
            env=environment, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.stderr == "convlstm: [Errno 28] No space left on device\n"
    assert done.returncode == 1
