#include "build/vertex_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "build/mesh_grid.h"
#include "native/check.h"

namespace nanite_cull {

namespace {

constexpr int64_t sample_size = 65536;  // corners' faces looked at for the step
constexpr int32_t linear_uvs = 1 << 24;

constexpr int normal_scale = (1 << (normal_bits - 1)) - 1;

// Octahedral map of a direction to two integers (Meyer et al., "On Floating-Point Normal
// Vectors", 2010); a zero vector becomes +z.
uint32_t octahedral_code(const float* n) {
  const double x = n[0], y = n[1], z = n[2], sum = std::fabs(x) + std::fabs(y) + std::fabs(z);
  double u = sum > 0 ? x / sum : 0, v = sum > 0 ? y / sum : 0;
  if (z < 0) {
    const double fold_u = (1 - std::fabs(v)) * (u < 0 ? -1 : 1);
    v = (1 - std::fabs(u)) * (v < 0 ? -1 : 1);
    u = fold_u;
  }
  return static_cast<uint32_t>(std::lrint(u * normal_scale) + normal_scale) |
         static_cast<uint32_t>(std::lrint(v * normal_scale) + normal_scale) << normal_bits;
}

}  // namespace

uint32_t encode_normal(const float* normal) {
  uint32_t code = octahedral_code(normal);
  for (int i = 0; i < 4; ++i) {  // on a fold two codes mean one direction: take the one that comes back
    float decoded[3];
    decode_normal(code, decoded);
    const uint32_t again = octahedral_code(decoded);
    if (again == code) break;
    code = again;
  }
  return code;
}

void decode_normal(uint32_t code, float* n) {
  const float u = (float(code & normal_mask) - normal_scale) / normal_scale,
              v = (float(code >> normal_bits & normal_mask) - normal_scale) / normal_scale;
  float x = u, y = v;
  const float z = 1 - std::fabs(u) - std::fabs(v);
  if (z < 0) {
    x = (1 - std::fabs(v)) * (u < 0 ? -1.0f : 1.0f);
    y = (1 - std::fabs(u)) * (v < 0 ? -1.0f : 1.0f);
  }
  const float length = std::sqrt(x * x + y * y + z * z);
  n[0] = x / length, n[1] = y / length, n[2] = z / length;
}

float uv_step(const MeshInput& mesh) {
  std::vector<float> sizes;
  sizes.reserve(mesh.face_count * 3 / std::max<int64_t>(1, mesh.face_count / sample_size) + 3);
  float largest = 0;
  const int64_t stride = std::max<int64_t>(1, mesh.face_count / sample_size);
  for (int64_t f = 0; f < mesh.face_count; ++f)
    for (int c = 0; c < 3; ++c) {
      const float* uv = mesh.uvs + 2 * size_t(mesh.faces[3 * f + c]);
      const float size = std::max(std::fabs(uv[0]), std::fabs(uv[1]));
      largest = std::max(largest, size);
      if (f % stride == 0 && size > 0) sizes.push_back(size);
    }
  native::demand(largest < 1e18f, [&] {
    return "build: uvs must lie within 1e18 of zero, got " + std::to_string(largest) + "; scale them";
  });
  if (sizes.empty()) return largest > 0 ? least_step : 1;
  auto middle = sizes.begin() + static_cast<ptrdiff_t>(sizes.size() / 2);
  std::nth_element(sizes.begin(), middle, sizes.end());
  return std::max(static_cast<float>(power_of_two_below(2 * double(*middle)) / 65536), least_step);
}

int32_t encode_uv(float value, float step) {
  const float scaled = value / step, limit = float(linear_uvs);
  if (std::fabs(scaled) < limit) return static_cast<int32_t>(std::lrint(scaled));
  const float size = std::fabs(value), end = limit * step;
  int32_t bits, end_bits;
  std::memcpy(&bits, &size, 4), std::memcpy(&end_bits, &end, 4);
  return (value < 0 ? -1 : 1) * (linear_uvs + (bits - end_bits));
}

float decode_uv(int32_t code, float step) {
  if (code > -linear_uvs && code < linear_uvs) return float(code) * step;
  const float end = float(linear_uvs) * step;
  int32_t bits;
  std::memcpy(&bits, &end, 4);
  const int64_t of_size = bits + std::abs(int64_t(code)) - linear_uvs;
  bits = static_cast<int32_t>(std::min<int64_t>(of_size, 0x7f800000));  // infinity
  float size;
  std::memcpy(&size, &bits, 4);
  return code < 0 ? -size : size;
}

void unpack_color(uint32_t code, float* color) {
  for (int c = 0; c < 4; ++c) color[c] = float(code >> (8 * c) & 255) / 255;
}

uint32_t pack_color(const float* color) {
  uint32_t code = 0;
  for (int c = 0; c < 4; ++c)
    code |= static_cast<uint32_t>(std::lrint(std::clamp(color[c], 0.0f, 1.0f) * 255)) << (8 * c);
  return code;
}

}  // namespace nanite_cull
