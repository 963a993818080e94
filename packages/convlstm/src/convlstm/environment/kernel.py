"""This interpreter as a Jupyter kernel."""

from __future__ import annotations

import json
from pathlib import Path


def install_kernel(name: str, display: str, prefix: str | None = None) -> Path:
    """Registers this interpreter as a Jupyter kernel; checks that it starts and imports convlstm.

    prefix: where (`share/jupyter/kernels` below it); by default the user's folder. Raises
    RuntimeError where ipykernel is missing or the kernel does not start.
    """
    try:
        from ipykernel.kernelspec import install
    except ImportError:
        raise RuntimeError(
            "kernel: ipykernel is not installed: pip install ipykernel (conda install ipykernel)"
        ) from None
    folder = install(user=prefix is None, kernel_name=name, display_name=display, prefix=prefix)
    check_kernel(Path(folder))
    return Path(folder)


def check_kernel(folder: Path, seconds: float = 60) -> str:
    """Starts the kernel of a kernelspec folder, runs code in it and stops it; returns what it
    printed. Raises RuntimeError with the kernel's own words if that fails."""
    from jupyter_client import KernelManager

    command = json.loads((folder / "kernel.json").read_text())["argv"]
    manager = KernelManager()
    manager.kernel_spec.argv = command
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    printed: list[str] = []

    def collect(message) -> None:
        content = message["content"]
        printed.append(content.get("text", "") or "\n".join(content.get("traceback", [])))

    try:
        client.wait_for_ready(timeout=seconds)
        reply = client.execute_interactive(
            "import convlstm; print('convlstm', convlstm.__version__)",
            timeout=seconds,
            output_hook=collect,
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"kernel: it starts, but cannot import convlstm: {''.join(printed)}")
    return "".join(printed).strip()
