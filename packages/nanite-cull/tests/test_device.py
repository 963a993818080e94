"""csrc/core on the device: nvcc compiles each header alone, and pixels are decided in float32."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
NATIVE = Path(__file__).resolve().parents[3] / "cmake" / "include"
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
  ClipVertex polygon[max_clipped_corners], scratch[max_clipped_corners];
  FixedVertex fixed[max_clipped_corners];
  for (int k = 0; k < 3; ++k) polygon[k] = to_clip(matrix, position + 9 * i + 3 * k);
  float weight[3];
  perspective_weights(polygon, 0.25f, 0.5f, weight);
  const int count = clip_triangle(screen, polygon, scratch, fixed);
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


LAYOUTS = """
#include "core/hzb_layout.h"
#include "core/page_layout.h"
#include "core/queue_layout.h"
using namespace nanite_cull;

constexpr bool covers(int width, int height) {  // one texel in the end
  for (int level = 1; level < hzb_levels(width, height); ++level)
    for (int x = 0; x < hzb_size(width, level - 1); ++x)
      if (x / 2 >= hzb_size(width, level)) return false;
  const int last = hzb_levels(width, height) - 1;
  return hzb_size(width, last) == 1 && hzb_size(height, last) == 1 &&
         hzb_offset(width, height, last + 1) == hzb_offset(width, height, last) + 1;
}
static_assert(covers(1920, 1080) && covers(1, 1) && covers(1279, 3) && covers(513, 512));
constexpr bool fits(int x0, int x1) {
  const int level = hzb_level(x0, 0, x1, 0), shift = level + 1;
  return (x1 >> shift) - (x0 >> shift) < hzb_texels &&
         (level == 0 || (x1 >> level) - (x0 >> level) >= hzb_texels);
}
static_assert(fits(0, 0) && fits(7, 8) && fits(0, 1919) && fits(1000, 1009) && fits(3, 66));

constexpr bool returns(uint32_t view, uint32_t instance, uint32_t item) {
  for (int i = 0; i < 2; ++i) {
    const bool missed = i == 1;
    const uint64_t word = pack({view, instance, item, missed});
    const Candidate c = unpack(word);
    if (c.view != view || c.instance != instance || c.item != item || c.missed != missed ||
        word == empty_slot)
      return false;
  }
  return true;
}
static_assert(returns(0, 0, 0) && returns(most_views - 1, 0xffffffff, most_items - 1) &&
              returns(3, 1u << 31, 77));
static_assert(part_head_at(2) == sizeof(PageHead) + 2 * sizeof(PartHead));
"""


def syntax(source):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    command = [compiler, "-std=c++17", "-fsyntax-only", "-Wall", f"-I{CSRC}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_layouts_of_queue_page_and_depth_hold_what_they_say(tmp_path):
    (tmp_path / "layouts.cpp").write_text(LAYOUTS)
    syntax(tmp_path / "layouts.cpp")


@pytest.mark.parametrize("name", HEADERS)
def test_each_header_compiles_alone(name, tmp_path):
    (tmp_path / "unit.cpp").write_text(f'#include "core/{name}"\n')
    syntax(tmp_path / "unit.cpp")


@pytest.fixture
def nvcc(tmp_path):
    if NVCC is None:
        pytest.skip("needs nvcc")
    if not NATIVE.is_dir():
        pytest.skip("needs the headers of a checkout")

    def compile_(source, *options):
        path = tmp_path / "unit.cu"
        path.write_text(source)
        done = subprocess.run(
            [NVCC, "-std=c++17", "-arch=sm_90", "-fmad=false", "-Werror=all-warnings",
             f"-I{CSRC}", f"-I{NATIVE}", *options, str(path)],
            capture_output=True, text=True, cwd=tmp_path,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return tmp_path

    return compile_


@pytest.mark.parametrize("order", [1, -1])
def test_nvcc_compiles_the_headers_in_either_order(order, nvcc):
    includes = "".join(f'#include "core/{name}"\n' for name in HEADERS[::order])
    nvcc(f"{includes}__global__ void nothing() {{}}\n", "-c", "-o", "unit.o")


def test_ptx_of_what_decides_a_pixel_has_no_double_precision_and_no_contraction(nvcc):
    text = (nvcc(KERNEL, "-ptx", "-o", "unit.ptx") / "unit.ptx").read_text()
    assert "decide" in text
    assert not re.search(r"\.f64\b", text)
    # those of the correctly rounded division and square root are their own
    assert not re.search(r"^\s+(fma|mad)\.rn\.f32", text, re.MULTILINE)
