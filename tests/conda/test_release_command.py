"""tools/release.py as a user meets it: its help, its plan, its refusals."""

import subprocess
import sys

import workspace
from shipping import recipes

RELEASE = workspace.ROOT / "tools" / "release.py"


def release(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, RELEASE, *arguments], capture_output=True, text=True)


def test_help_shows_the_common_commands_and_the_exit_codes():
    done = release("--help")
    assert done.returncode == 0
    for text in ("--dry-run", "--offline", "--variant", "--package", "--upload", "Exit codes"):
        assert text in done.stdout


def test_offline_builds_are_never_uploaded():
    done = release("--offline", "--upload", "prefix:x")
    assert done.returncode == 2
    assert "never published" in done.stderr


def test_a_wrong_upload_target_is_refused_before_anything_is_built():
    done = release("--upload", "somewhere")
    assert done.returncode == 2
    assert "expected anaconda:OWNER" in done.stdout


def test_dependencies_among_our_packages_are_built_first():
    builds = [build for name in reversed(recipes.names()) for build in recipes.render(name)]
    order = [build.name for build in recipes.in_build_order(builds)]
    assert len(order) == len(builds)
    if "ffmpeg-gpu" in order:  # its recipe tests run with our ffmpeg-gpu-build
        assert order.index("ffmpeg-gpu-build") < order.index("ffmpeg-gpu")
