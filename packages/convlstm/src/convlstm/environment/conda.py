"""Environment files for this release and for the classic Keras set-up."""

from __future__ import annotations

from .. import __version__
from .pins import TENSORFLOW, TensorFlow, read_pins, version


def environment(gpu: bool, mirror: str | None = None) -> str:
    """A conda environment file (YAML) with this release, its notebook and its tools."""
    pins = read_pins()
    cuda = pins.cuda[-1]
    packages = [f"python={pins.python[-1]}"]
    if gpu:
        flavour = f"cuda{cuda.replace('.', '')}"
        packages += [
            f"convlstm={__version__}={flavour}*",
            f"pytorch{pins.torch}=cuda*",
            f"cuda-version={cuda}",
            f"cudnn{pins.cudnn}",
        ]
    else:
        packages += [f"convlstm={__version__}=cpu*", f"pytorch{pins.torch}"]
    packages += ["h5py", "pillow", "scikit-learn", "tensorboard", "ipykernel"]
    about = f"convlstm {__version__}, {f'CUDA {cuda}' if gpu else 'CPU'}"
    return _yaml("convlstm", about, packages, [], mirror)


def tensorflow_environment(release: str, gpu: bool, mirror: str | None = None) -> str:
    """The classic Keras set-up for a TensorFlow release, from the versions that it was tested with.

    Raises ValueError for a release that the table does not have.
    """
    if release not in TENSORFLOW:
        known = ", ".join(TENSORFLOW)
        raise ValueError(f"env: --tensorflow must be one of {known}; got {release}")
    row = TENSORFLOW[release]
    packages = [f"python={row.python}", "pip", "h5py", "pillow", "matplotlib", "ipykernel"]
    if gpu:
        packages += [f"cudatoolkit={row.cuda}" if version(row.cuda) < (12,) else
                     f"cuda-version={row.cuda}", f"cudnn={row.cudnn}"]  # fmt: skip
    about = f"TensorFlow {release}: tested with Python up to {row.python}"
    about += f", CUDA {row.cuda}, cuDNN {row.cudnn}\n{_windows(row)}" if gpu else ", CPU"
    return _yaml(f"tensorflow-{release}", about, packages, [f"tensorflow=={release}.*"], mirror)


def _windows(row: TensorFlow) -> str:
    if row.windows_gpu:
        return "Windows: this release runs on the GPU natively."
    return "Windows: no native GPU support after TensorFlow 2.10; use WSL2 (or TensorFlow 2.10)."


def _yaml(name: str, about: str, packages: list[str], pip: list[str], mirror: str | None) -> str:
    channel = "conda-forge"
    if mirror is not None:
        if any(c.isspace() or c in "\"'#" for c in mirror):
            raise ValueError(f"env: --mirror must be a plain URL or channel name, got {mirror!r}")
        channel = mirror
    lines = [f"# {line}" for line in about.splitlines()]
    lines += [f"name: {name}", "channels:", f"  - {channel}", "  - nodefaults", "dependencies:"]
    lines += [f'  - "{p}"' for p in packages]
    if pip:
        lines += ["  - pip:", *(f'      - "{p}"' for p in pip)]
    return "\n".join(lines) + "\n"
