#include "cull/cull_far.h"

#include "cull/cull.h"
#include "native/dispatch.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nanite_cull {

#if defined(__x86_64__)

namespace {

#define AVX2 __attribute__((target("avx2")))

AVX2 inline __m256 set(float x) { return _mm256_set1_ps(x); }
AVX2 inline __m256 load(const std::vector<float>& values, int64_t first) {
  return _mm256_loadu_ps(values.data() + first);
}
AVX2 inline __m256 magnitude(__m256 x) { return _mm256_andnot_ps(set(-0.0f), x); }

// The eye minus a translation, rounded once from double.
AVX2 inline __m256 offset(double eye, const std::vector<double>& translation, int64_t first) {
  const __m256d e = _mm256_set1_pd(eye);
  const __m128 low = _mm256_cvtpd_ps(_mm256_sub_pd(e, _mm256_loadu_pd(translation.data() + first)));
  const __m128 high = _mm256_cvtpd_ps(_mm256_sub_pd(e, _mm256_loadu_pd(translation.data() + first + 4)));
  return _mm256_set_m128(high, low);
}

// Bit masks of the spheres that miss the frustum and of those that lie wholly in it.
AVX2 inline void test_spheres(const InstanceSpheres& s, int64_t first, const float (*planes)[4],
                              uint32_t& outside, uint32_t& inside) {
  const __m256 x = load(s.x, first), y = load(s.y, first), z = load(s.z, first), r = load(s.r, first);
  __m256 out = _mm256_setzero_ps(), in = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  for (int p = 0; p < 6; ++p) {
    const __m256 nx = _mm256_mul_ps(set(planes[p][0]), x), ny = _mm256_mul_ps(set(planes[p][1]), y),
                 nz = _mm256_mul_ps(set(planes[p][2]), z), w = set(planes[p][3]);
    const __m256 slack =
        _mm256_mul_ps(set(sphere_slack),
                      _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(magnitude(nx), magnitude(ny)), magnitude(nz)),
                                    magnitude(w)));
    const __m256 distance = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(nx, ny), nz), w);
    const __m256 reach = _mm256_add_ps(r, slack);
    out = _mm256_or_ps(out, _mm256_cmp_ps(distance, _mm256_xor_ps(reach, set(-0.0f)), _CMP_LT_OQ));
    in = _mm256_and_ps(in, _mm256_cmp_ps(distance, reach, _CMP_GE_OQ));
  }
  outside = _mm256_movemask_ps(out), inside = _mm256_movemask_ps(in);
}

AVX2 inline uint32_t hidden(const InstanceSpheres& s, int64_t first) {
  return _mm256_movemask_ps(_mm256_cmp_ps(load(s.r, first), _mm256_setzero_ps(), _CMP_LT_OQ));
}

// The root clusters of eight instances, component by component.
struct Roots {
  __m256 x, y, z, r, error, lo[3], hi[3], longest_edge;
  uint32_t exist;  // mask of the lanes whose asset has a single root
};

constexpr int root_words = sizeof(RootCluster) / 4;
static_assert(sizeof(RootCluster) == 4 * 16, "a root is read word by word");

// Words [word, word + 8) of the roots of eight assets, turned: out[i] holds word i of each.
AVX2 inline void load_turned(const float* words, const uint32_t* assets, int word, __m256* out) {
  __m256 row[8], pair[8], four[8];
  for (int i = 0; i < 8; ++i) row[i] = _mm256_loadu_ps(words + size_t(assets[i]) * root_words + word);
  for (int i = 0; i < 8; i += 2)
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]), pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      four[i + 2 * j] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0x44);
      four[i + 2 * j + 1] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    out[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
    out[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
  }
}

AVX2 inline Roots load_roots(const Scene& scene, const std::vector<RootCluster>& roots, int64_t first) {
  const __m256i assets = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&scene.lanes.asset[first]));
  const __m256i same = _mm256_cmpeq_epi32(assets, _mm256_set1_epi32(int(scene.lanes.asset[first])));
  const auto* words = reinterpret_cast<const float*>(roots.data());
  Roots out;
  __m256* const values[12] = {&out.x,     &out.y,     &out.z,     &out.r,     &out.error, &out.lo[0],
                              &out.lo[1], &out.lo[2], &out.hi[0], &out.hi[1], &out.hi[2], &out.longest_edge};
  if (_mm256_movemask_epi8(same) == -1) {
    const RootCluster& root = roots[scene.lanes.asset[first]];
    const float* word = words + size_t(scene.lanes.asset[first]) * root_words;
    for (int i = 0; i < 12; ++i) *values[i] = set(word[i]);
    out.exist = root.cluster == none ? 0 : 255;
    return out;
  }
  __m256 turned[16];
  load_turned(words, &scene.lanes.asset[first], 0, turned);
  load_turned(words, &scene.lanes.asset[first], 8, turned + 8);
  for (int i = 0; i < 12; ++i) *values[i] = turned[i];
  const __m256i absent = _mm256_cmpeq_epi32(_mm256_castps_si256(turned[12]), _mm256_set1_epi32(int(none)));
  out.exist = ~_mm256_movemask_ps(_mm256_castsi256_ps(absent)) & 255;
  return out;
}

// make_instance_view(), too_coarse() and is_large() for the root cluster of eight instances.
AVX2 void test_roots(const Scene& scene, int64_t first, const Roots& root, const View& view, uint32_t& fine,
                     uint32_t& large) {
  const InstanceLanes& l = scene.lanes;
  const __m256 o[3] = {offset(view.eye[0], l.translation[0], first),
                       offset(view.eye[1], l.translation[1], first),
                       offset(view.eye[2], l.translation[2], first)};
  __m256 eye[3];
  for (int i = 0; i < 3; ++i)
    eye[i] = _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(load(l.inverse[3 * i], first), o[0]),
                                         _mm256_mul_ps(load(l.inverse[3 * i + 1], first), o[1])),
                           _mm256_mul_ps(load(l.inverse[3 * i + 2], first), o[2]));
  const __m256 largest = load(l.largest, first), smallest = load(l.smallest, first);
  const __m256 near_distance = _mm256_div_ps(set(view.near_distance), smallest);
  const __m256 scale = _mm256_mul_ps(set(view.pixels_per_unit),
                                     view.orthographic ? largest : _mm256_div_ps(largest, smallest));

  const __m256 dx = _mm256_sub_ps(root.x, eye[0]), dy = _mm256_sub_ps(root.y, eye[1]),
               dz = _mm256_sub_ps(root.z, eye[2]);
  const __m256 centre = _mm256_sqrt_ps(
      _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(dx, dx), _mm256_mul_ps(dy, dy)), _mm256_mul_ps(dz, dz)));
  __m256 distance = _mm256_sub_ps(_mm256_min_ps(set(farthest), centre), root.r);
  if (view.orthographic) distance = set(1);
  const __m256 exceeds = _mm256_cmp_ps(_mm256_mul_ps(root.error, scale),
                                       _mm256_mul_ps(set(view.threshold), distance), _CMP_GT_OQ);
  const __m256 away = view.orthographic ? _mm256_castsi256_ps(_mm256_set1_epi32(-1))
                                        : _mm256_cmp_ps(distance, near_distance, _CMP_GT_OQ);
  const __m256 close = _mm256_cmp_ps(root.error, _mm256_setzero_ps(), _CMP_GT_OQ);
  fine = ~_mm256_movemask_ps(_mm256_blendv_ps(close, exceeds, away)) & 255;

  __m256 square = _mm256_setzero_ps();
  for (int a = 0; a < 3; ++a) {
    const __m256 below = _mm256_sub_ps(root.lo[a], eye[a]), above = _mm256_sub_ps(eye[a], root.hi[a]);
    const __m256 gap = _mm256_max_ps(_mm256_max_ps(below, above), _mm256_setzero_ps());
    square = _mm256_add_ps(square, _mm256_mul_ps(gap, gap));
  }
  const __m256 gap = view.orthographic ? set(1) : _mm256_sqrt_ps(square);
  const __m256 clear = view.orthographic
                           ? _mm256_castsi256_ps(_mm256_set1_epi32(-1))
                           : _mm256_cmp_ps(gap, _mm256_mul_ps(set(2), near_distance), _CMP_GT_OQ);
  const __m256 long_edge = _mm256_cmp_ps(_mm256_mul_ps(root.longest_edge, scale),
                                         _mm256_mul_ps(set(large_edge_pixels), gap), _CMP_GT_OQ);
  large = (~_mm256_movemask_ps(clear) | _mm256_movemask_ps(long_edge)) & 255;
}

AVX2 FarMasks far_masks(const Scene& scene, const std::vector<RootCluster>& all_roots, int64_t first,
                        const View& view, const float (*planes)[4], bool frustum) {
  uint32_t inside = 255;
  FarMasks out;
  if (frustum)
    test_spheres(scene.spheres, first, planes, out.outside, inside);
  else
    out.outside = hidden(scene.spheres, first), inside = ~out.outside & 255;
  if (inside == 0) return out;
  const Roots roots = load_roots(scene, all_roots, first);
  inside &= roots.exist;
  if (inside == 0) return out;
  uint32_t fine, large;
  test_roots(scene, first, roots, view, fine, large);
  out.root_small = inside & fine & ~large;
  out.root_large = inside & fine & large;
  return out;
}

}  // namespace

bool test_far(const Scene& scene, const std::vector<RootCluster>& roots, int64_t first, const View& view,
              const float (*planes)[4], bool frustum, FarMasks& out) {
  if (native::isa() == native::Isa::baseline) return false;
  out = far_masks(scene, roots, first, view, planes, frustum);
  return true;
}

#else

bool test_far(const Scene&, const std::vector<RootCluster>&, int64_t, const View&, const float (*)[4], bool,
              FarMasks&) {
  return false;
}

#endif

}  // namespace nanite_cull
