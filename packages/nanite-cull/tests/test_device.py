"""csrc/core on the device: nvcc compiles each header alone, and pixels are decided in float32."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
HEADERS = sorted(p.name for p in (CSRC / "core").glob("*.h"))

KERNEL = """
#include "core/clip.h"
#include "core/fixed_triangle.h"
#include "core/frustum.h"
#include "core/interpolation.h"
#include "core/lod.h"
#include "core/size_class.h"
using namespace nanite_cull;
__global__ void decide(const InstanceView* view, const Node* n, const float* matrix,
                       const float* position, FixedTriangle* out, float* depth, Screen screen) {
  const int i = threadIdx.x;
  if (!box_in_frustum(*view, n->lo[0][i], n->lo[1][i], n->lo[2][i], n->hi[0][i], n->hi[1][i],
                      n->hi[2][i]))
    return;
  if (!too_coarse(view->lod, n->x[i], n->y[i], n->z[i], n->r[i], n->max_parent_error[i])) return;
  ClipVertex polygon[max_clipped_corners];
  FixedVertex fixed[max_clipped_corners];
  for (int k = 0; k < 3; ++k) polygon[k] = to_clip(matrix, position + 9 * i + 3 * k);
  float weight[3];
  perspective_weights(polygon, 0.25f, 0.5f, weight);
  const int count = clip_triangle(screen, polygon, fixed);
  for (int k = 1; k + 1 < count; ++k)
    if (set_up(fixed[0], fixed[k], fixed[k + 1], 0, 0, 64, 64, 64, 64, 1, out[i]))
      depth[i] = out[i].depth(3, 4) + weight[0];
}
"""


def test_core_has_neither_containers_nor_double_precision():
    for name in HEADERS:
        text = (CSRC / "core" / name).read_text()
        code = re.sub(r"//.*", "", text)
        assert not re.search(r"std::|<vector>|<string>|<algorithm>|\bdouble\b", code), name


@pytest.fixture
def nvcc(tmp_path):
    if NVCC is None:
        pytest.skip("needs nvcc")

    def compile_(source, *options):
        path = tmp_path / "unit.cu"
        path.write_text(source)
        done = subprocess.run(
            [NVCC, "-std=c++17", "-arch=sm_90", "-fmad=false", "-Werror=all-warnings",
             f"-I{CSRC}", *options, str(path)],
            capture_output=True, text=True, cwd=tmp_path,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path

    return compile_


@pytest.mark.parametrize("name", HEADERS)
def test_nvcc_compiles_each_header_alone(name, nvcc):
    nvcc(f'#include "core/{name}"\n__global__ void nothing() {{}}\n', "-c", "-o", "unit.o")


def test_ptx_of_what_decides_a_pixel_has_no_double_precision_and_no_contraction(nvcc):
    text = (nvcc(KERNEL, "-ptx", "-o", "unit.ptx") / "unit.ptx").read_text()
    assert "decide" in text
    assert not re.search(r"\.f64\b", text)
    # those of the correctly rounded division and square root are their own
    assert not re.search(r"^\s+(fma|mad)\.rn\.f32", text, re.MULTILINE)
