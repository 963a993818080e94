#include "cull/cull_simd.h"

#include "native/dispatch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nanite_cull {

namespace {

// Pointers to eight boxes, component by component.
struct Boxes {
  const float *lo[3], *hi[3];
};

uint32_t boxes_inside(const Boxes& b, int count, const InstanceView& view) {
  uint32_t mask = 0;
  for (int i = 0; i < count; ++i)
    mask |=
        uint32_t(box_in_frustum(view, b.lo[0][i], b.lo[1][i], b.lo[2][i], b.hi[0][i], b.hi[1][i], b.hi[2][i]))
        << i;
  return mask;
}

uint32_t children_scalar(const Node& node, const InstanceView& view) {
  const Boxes boxes{{node.lo[0], node.lo[1], node.lo[2]}, {node.hi[0], node.hi[1], node.hi[2]}};
  uint32_t mask = boxes_inside(boxes, 8, view);
  for (int i = 0; i < 8; ++i) {
    const bool wanted =
        node.child[i] != none &&
        too_coarse(view.lod, node.x[i], node.y[i], node.z[i], node.r[i], node.max_parent_error[i]) &&
        may_be_fine(view.lod, node.x[i], node.y[i], node.z[i], node.r[i], node.min_own_error[i]);
    if (!wanted) mask &= ~(1u << i);
  }
  return mask;
}

uint32_t clusters_scalar(const ClusterBounds& b, uint32_t first, uint32_t count, const InstanceView& view) {
  const Boxes boxes{{&b.lo[0][first], &b.lo[1][first], &b.lo[2][first]},
                    {&b.hi[0][first], &b.hi[1][first], &b.hi[2][first]}};
  uint32_t mask = boxes_inside(boxes, count, view);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t c = first + i;
    if (too_coarse(view.lod, b.x[c], b.y[c], b.z[c], b.r[c], b.error[c])) mask &= ~(1u << i);
  }
  return mask;
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

AVX2 inline __m256 inside_planes(const Boxes& boxes, const InstanceView& view, __m256i lanes) {
  __m256 inside = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  for (int p = 0; p < view.plane_count; ++p) {
    const float* n = view.planes[p];
    const __m256 x = _mm256_maskload_ps((n[0] > 0 ? boxes.hi : boxes.lo)[0], lanes);
    const __m256 y = _mm256_maskload_ps((n[1] > 0 ? boxes.hi : boxes.lo)[1], lanes);
    const __m256 z = _mm256_maskload_ps((n[2] > 0 ? boxes.hi : boxes.lo)[2], lanes);
    const __m256 sum = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(_mm256_set1_ps(n[0]), x),
                                                                 _mm256_mul_ps(_mm256_set1_ps(n[1]), y)),
                                                   _mm256_mul_ps(_mm256_set1_ps(n[2]), z)),
                                     _mm256_set1_ps(n[3]));
    inside = _mm256_and_ps(inside, _mm256_cmp_ps(sum, _mm256_setzero_ps(), _CMP_GE_OQ));
  }
  return inside;
}

AVX2 inline __m256 distance_to(const LodView& view, __m256 x, __m256 y, __m256 z) {
  const __m256 dx = _mm256_sub_ps(x, _mm256_set1_ps(view.eye[0])),
               dy = _mm256_sub_ps(y, _mm256_set1_ps(view.eye[1])),
               dz = _mm256_sub_ps(z, _mm256_set1_ps(view.eye[2]));
  const __m256 square =
      _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(dx, dx), _mm256_mul_ps(dy, dy)), _mm256_mul_ps(dz, dz));
  return _mm256_min_ps(_mm256_set1_ps(farthest), _mm256_sqrt_ps(square));
}

// too_coarse() of core/lod.h, operation for operation; `centre` is the distance to the spheres' centres.
AVX2 inline __m256 coarse(const LodView& view, __m256 centre, __m256 r, __m256 error) {
  const __m256 zero = _mm256_setzero_ps();
  __m256 distance = _mm256_sub_ps(centre, r), far = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  if (view.orthographic != 0)
    distance = _mm256_set1_ps(1);
  else
    far = _mm256_cmp_ps(distance, _mm256_set1_ps(view.near_distance), _CMP_GT_OQ);
  const __m256 exceeds = _mm256_cmp_ps(_mm256_mul_ps(error, _mm256_set1_ps(view.error_to_pixels)),
                                       _mm256_mul_ps(_mm256_set1_ps(view.threshold), distance), _CMP_GT_OQ);
  return _mm256_blendv_ps(_mm256_cmp_ps(error, zero, _CMP_GT_OQ), exceeds, far);
}

// may_be_fine() of core/lod.h, negated, operation for operation.
AVX2 inline __m256 never_fine(const LodView& view, __m256 centre, __m256 r, __m256 error) {
  __m256 distance = _mm256_mul_ps(_mm256_add_ps(centre, r), _mm256_set1_ps(1 + lod_margin));
  if (view.orthographic != 0) distance = _mm256_set1_ps(1);
  const __m256 near_distance = _mm256_set1_ps(view.near_distance);
  distance = _mm256_blendv_ps(near_distance, distance, _mm256_cmp_ps(distance, near_distance, _CMP_GT_OQ));
  return _mm256_cmp_ps(_mm256_mul_ps(error, _mm256_set1_ps(view.error_to_pixels)),
                       _mm256_mul_ps(_mm256_set1_ps(view.threshold), distance), _CMP_GT_OQ);
}

AVX2 uint32_t children_avx2(const Node& node, const InstanceView& view) {
  const Boxes boxes{{node.lo[0], node.lo[1], node.lo[2]}, {node.hi[0], node.hi[1], node.hi[2]}};
  const __m256 centre =
      distance_to(view.lod, _mm256_load_ps(node.x), _mm256_load_ps(node.y), _mm256_load_ps(node.z));
  const __m256 r = _mm256_load_ps(node.r);
  __m256 wanted = coarse(view.lod, centre, r, _mm256_load_ps(node.max_parent_error));
  wanted = _mm256_andnot_ps(never_fine(view.lod, centre, r, _mm256_load_ps(node.min_own_error)), wanted);
  const __m256i child = _mm256_load_si256(reinterpret_cast<const __m256i*>(node.child));
  wanted = _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(child, _mm256_set1_epi32(-1))), wanted);
  if (_mm256_movemask_ps(wanted) == 0) return 0;
  return _mm256_movemask_ps(_mm256_and_ps(wanted, inside_planes(boxes, view, _mm256_set1_epi32(-1))));
}

AVX2 uint32_t clusters_avx2(const ClusterBounds& b, uint32_t first, uint32_t count,
                            const InstanceView& view) {
  const __m256i lanes =
      _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  const __m256 centre =
      distance_to(view.lod, _mm256_maskload_ps(&b.x[first], lanes), _mm256_maskload_ps(&b.y[first], lanes),
                  _mm256_maskload_ps(&b.z[first], lanes));
  __m256 wanted = coarse(view.lod, centre, _mm256_maskload_ps(&b.r[first], lanes),
                         _mm256_maskload_ps(&b.error[first], lanes));
  wanted = _mm256_andnot_ps(wanted, _mm256_castsi256_ps(lanes));
  if (_mm256_movemask_ps(wanted) == 0) return 0;
  const Boxes boxes{{&b.lo[0][first], &b.lo[1][first], &b.lo[2][first]},
                    {&b.hi[0][first], &b.hi[1][first], &b.hi[2][first]}};
  return _mm256_movemask_ps(_mm256_and_ps(wanted, inside_planes(boxes, view, lanes)));
}
#endif

}  // namespace

uint32_t visible_children(const Node& node, const InstanceView& view) {
#if defined(__x86_64__)
  if (native::isa() != native::Isa::baseline) return children_avx2(node, view);
#endif
  return children_scalar(node, view);
}

uint32_t visible_clusters(const ClusterBounds& bounds, uint32_t first, uint32_t count,
                          const InstanceView& view) {
#if defined(__x86_64__)
  if (native::isa() != native::Isa::baseline) return clusters_avx2(bounds, first, count, view);
#endif
  return clusters_scalar(bounds, first, count, view);
}

}  // namespace nanite_cull
