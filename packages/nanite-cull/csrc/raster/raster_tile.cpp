#include "raster/raster_tile.h"

#include <algorithm>

#include "native/dispatch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nanite_cull {

namespace {

struct Solid {
  bool operator()(int, int) const { return true; }
};

template <class IsSolid>
void put(const Tile& tile, const FixedTriangle& t, uint32_t id, int px, int py, const IsSolid& is_solid) {
  const int64_t at = int64_t(py) * tile.pitch + px;
  const float z = t.depth(px, py);
  if (tile.overdraw) ++tile.overdraw[at];
  if (z > tile.depth[at] || (z == tile.depth[at] && z > 0 && id > tile.id[at])) {
    if (!is_solid(px, py)) return;
    tile.depth[at] = z;
    tile.id[at] = id;
  }
}

template <class IsSolid>
void small_scalar(const Tile& tile, const FixedTriangle& t, uint32_t id, const IsSolid& is_solid) {
  each_pixel(t, [&](int px, int py) { put(tile, t, id, px, py, is_solid); });
}

int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// The pixels of a row that lie inside: each edge gives one end, by exact division. False when empty.
bool span(const FixedTriangle& t, int py, int& first, int& last) {
  first = t.px0, last = t.px1;
  for (int i = 0; i < 3; ++i) {
    const int j = i == 2 ? 0 : i + 1;
    const int64_t e = t.edge(i, t.px0, py);
    const int64_t step = -(int64_t(t.y[j]) - t.y[i]) * subpixels;
    if (step == 0) {
      if (e < 0) return false;
    } else if (step > 0) {
      if (e < 0)
        first = static_cast<int>(
            std::max<int64_t>(first, t.px0 - std::max<int64_t>(floor_divide(e, step), -(1 << 20))));
    } else {
      if (e < 0) return false;
      last = static_cast<int>(std::min<int64_t>(last, t.px0 + std::min<int64_t>(e / -step, 1 << 20)));
    }
  }
  return first <= last;
}

template <class IsSolid>
void large_scalar(const Tile& tile, const FixedTriangle& t, uint32_t id, const IsSolid& is_solid) {
  int first, last;
  for (int py = t.py0; py <= t.py1; ++py)
    if (span(t, py, first, last))
      for (int px = first; px <= last; ++px) put(tile, t, id, px, py, is_solid);
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

// The depth test of put() for eight pixels; `inside` marks those that count, and none of them lies
// outside the tile. Stores that would touch a neighbour's pixels are masked.
AVX2 inline __attribute__((always_inline)) void put8(const Tile& tile, const FixedTriangle& t, uint32_t id,
                                                     int px, int py, __m256 column, __m256i inside) {
  const int64_t at = int64_t(py) * tile.pitch + px;
  float* depth = tile.depth + at;
  int* ids = reinterpret_cast<int*>(tile.id + at);
  __m256 z = _mm256_add_ps(column, _mm256_set1_ps(float(py - t.reference_y) * t.dzdy));
  z = _mm256_min_ps(_mm256_max_ps(z, _mm256_set1_ps(t.z_min)), _mm256_set1_ps(t.z_max));
  const bool whole = px + 8 <= tile.x1;
  const __m256 old_z = whole ? _mm256_loadu_ps(depth) : _mm256_maskload_ps(depth, inside);
  const __m256i old_id =
      whole ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ids)) : _mm256_maskload_epi32(ids, inside);
  const __m256i flip = _mm256_set1_epi32(int(0x80000000u)), ours = _mm256_set1_epi32(int(id));
  const __m256 above =
      _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_xor_si256(ours, flip), _mm256_xor_si256(old_id, flip)));
  const __m256 tie = _mm256_and_ps(_mm256_and_ps(_mm256_cmp_ps(z, old_z, _CMP_EQ_OQ), above),
                                   _mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_GT_OQ));
  const __m256 nearer = _mm256_or_ps(_mm256_cmp_ps(z, old_z, _CMP_GT_OQ), tie);
  const __m256i wins = _mm256_and_si256(inside, _mm256_castps_si256(nearer));
  if (tile.overdraw)
    for (int lane = 0, mask = _mm256_movemask_ps(_mm256_castsi256_ps(inside)); lane < 8; ++lane)
      if (mask >> lane & 1) ++tile.overdraw[at + lane];
  if (_mm256_testz_si256(wins, wins)) return;
  if (whole) {
    _mm256_storeu_ps(depth, _mm256_blendv_ps(old_z, z, _mm256_castsi256_ps(wins)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(ids), _mm256_blendv_epi8(old_id, ours, wins));
  } else {
    _mm256_maskstore_ps(depth, wins, z);
    _mm256_maskstore_epi32(ids, wins, ours);
  }
}

AVX2 inline __attribute__((always_inline)) __m256 column_depth(const FixedTriangle& t, int px) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 offset = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_set1_epi32(px - t.reference_x), lane));
  return _mm256_add_ps(_mm256_set1_ps(t.z), _mm256_mul_ps(offset, _mm256_set1_ps(t.dzdx)));
}

AVX2 void small_avx2(const Tile& tile, const FixedTriangle& t, uint32_t id) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), negative = _mm256_set1_epi32(-1);
  int32_t start[3], step_x[3];
  __m256i ramp[3], step_y[3];
  for (int i = 0; i < 3; ++i) {
    const int j = i == 2 ? 0 : i + 1;
    start[i] = static_cast<int32_t>(t.edge(i, t.px0, t.py0));
    step_x[i] = -(t.y[j] - t.y[i]) * subpixels;
    ramp[i] = _mm256_mullo_epi32(lane, _mm256_set1_epi32(step_x[i]));
    step_y[i] = _mm256_set1_epi32((t.x[j] - t.x[i]) * subpixels);
  }
  for (int px = t.px0; px <= t.px1; px += 8) {
    __m256i e0 = _mm256_add_epi32(_mm256_set1_epi32(start[0] + (px - t.px0) * step_x[0]), ramp[0]);
    __m256i e1 = _mm256_add_epi32(_mm256_set1_epi32(start[1] + (px - t.px0) * step_x[1]), ramp[1]);
    __m256i e2 = _mm256_add_epi32(_mm256_set1_epi32(start[2] + (px - t.px0) * step_x[2]), ramp[2]);
    const __m256i valid = _mm256_cmpgt_epi32(_mm256_set1_epi32(t.px1 - px + 1), lane);
    const __m256 column = column_depth(t, px);
    for (int py = t.py0; py <= t.py1; ++py) {
      const __m256i any = _mm256_or_si256(_mm256_or_si256(e0, e1), e2);
      const __m256i inside = _mm256_and_si256(_mm256_cmpgt_epi32(any, negative), valid);
      if (!_mm256_testz_si256(inside, inside)) put8(tile, t, id, px, py, column, inside);
      e0 = _mm256_add_epi32(e0, step_y[0]);
      e1 = _mm256_add_epi32(e1, step_y[1]);
      e2 = _mm256_add_epi32(e2, step_y[2]);
    }
  }
}

AVX2 void large_avx2(const Tile& tile, const FixedTriangle& t, uint32_t id) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  int first, last;
  for (int py = t.py0; py <= t.py1; ++py) {
    if (!span(t, py, first, last)) continue;
    for (int px = first; px <= last; px += 8)
      put8(tile, t, id, px, py, column_depth(t, px),
           _mm256_cmpgt_epi32(_mm256_set1_epi32(last - px + 1), lane));
  }
}
#endif

}  // namespace

void draw(const Tile& tile, const FixedTriangle& triangle, uint32_t id, bool large_path) {
  const bool small = triangle.small && !large_path;
#if defined(__x86_64__)
  if (native::isa() != native::Isa::baseline)
    return small ? small_avx2(tile, triangle, id) : large_avx2(tile, triangle, id);
#endif
  small ? small_scalar(tile, triangle, id, Solid{}) : large_scalar(tile, triangle, id, Solid{});
}

void draw_masked(const Tile& tile, const FixedTriangle& triangle, uint32_t id, bool large_path,
                 const Mask& mask) {
  triangle.small && !large_path ? small_scalar(tile, triangle, id, mask)
                                : large_scalar(tile, triangle, id, mask);
}

}  // namespace nanite_cull
