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


# TensorFlow up to 2.17 was compiled against numpy 1 and dies on import with numpy 2; its older
# releases do not say so in their metadata. Protobuf 4 likewise ends those before 2.9.
NUMPY_2, PROTOBUF_4 = (2, 18), (2, 9)


def tensorflow_environment(release: str, gpu: bool, mirror: str | None = None) -> str:
    """The classic Keras set-up for a TensorFlow release, from the versions that it was tested with.

    With `gpu`: from 2.14 on pip brings the CUDA libraries (tensorflow[and-cuda]); before, conda's
    cudatoolkit and cudnn do. Its first lines say what was checked of it, and how. Raises ValueError
    for a release that the table does not have.
    """
    if release not in TENSORFLOW:
        known = ", ".join(TENSORFLOW)
        raise ValueError(f"env: --tensorflow must be one of {known}; got {release}")
    row = TENSORFLOW[release]
    packages = [f"python={row.python}", "pip", "h5py", "pillow", "matplotlib", "ipykernel"]
    about = [f"TensorFlow {release}: tested with Python up to {row.python}, "]
    pip = [f"tensorflow=={release}.*"]
    if version(release) < NUMPY_2:
        packages.append("numpy<2")
        pip.append("numpy<2")
    if version(release) < PROTOBUF_4:
        pip.append("protobuf<3.21")
    if not gpu:
        about[0] += "CPU"
    else:
        about[0] += f"CUDA {row.cuda}, cuDNN {row.cudnn}"
        about.append(_windows(row))
        if row.has_extra:
            pip[0] = f"tensorflow[and-cuda]=={release}.*"
            about.append(
                "CUDA and cuDNN come by pip, beside TensorFlow; the driver is the system's."
            )
        else:
            packages += [f"cudatoolkit={row.cuda}", f"cudnn={row.conda_cudnn}"]
            if row.conda_cudnn != row.cudnn:
                about.append(
                    f"conda-forge never built cuDNN {row.cudnn}: {row.conda_cudnn} is taken, of "
                    "the same major version."
                )
    about.append(_checked(row, gpu))
    return _yaml(f"tensorflow-{release}", "\n".join(about), packages, pip, mirror)


def _checked(row: TensorFlow, gpu: bool) -> str:
    if row.checked and not gpu:
        return f"Checked: TensorFlow {row.release} was {row.checked}; conda's solver did not run."
    if row.has_extra and gpu:
        return "Checked: the wheel's metadata names these CUDA libraries; nothing was installed."
    return "Not checked: this file was not solved or installed for this release of convlstm."


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
