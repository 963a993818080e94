#include "store/group_codec.h"

#include <cmath>
#include <cstring>

#include "build/meshopt_api.h"
#include "build/weld.h"
#include "store/bit_stream.h"

namespace nanite_cull {

namespace {

constexpr int parameter_bits = 5;

// For each local vertex the earlier vertices that predict it: a + b - c across a shared edge, else the
// middle of a and b, else a, else the vertex before.
struct Predictor {
  int a = -1, b = -1, c = -1;

  int64_t predict(const int32_t* vertices, int width, int vertex, int component) const {
    auto value = [&](int v) { return int64_t(vertices[v * width + component]); };
    if (c >= 0) return value(a) + value(b) - value(c);
    if (b >= 0) return (value(a) + value(b)) / 2;
    if (a >= 0) return value(a);
    return vertex > 0 ? value(vertex - 1) : 0;
  }
};

// The corner opposite to edge (a, b) in one of the first `count` triangles, if it precedes `vertex`.
int opposite(const uint8_t* triangles, int count, int a, int b, int vertex) {
  for (int t = count - 1; t >= 0; --t) {
    const uint8_t* v = triangles + 3 * t;
    for (int i = 0; i < 3; ++i) {
      const int p = v[i], q = v[(i + 1) % 3], r = v[(i + 2) % 3];
      if (((p == a && q == b) || (p == b && q == a)) && r < vertex) return r;
    }
  }
  return -1;
}

std::vector<Predictor> predictors(const uint8_t* triangles, int triangle_count, int vertex_count) {
  std::vector<Predictor> out(vertex_count);
  std::vector<bool> seen(vertex_count, false);
  for (int t = 0; t < triangle_count; ++t)
    for (int i = 0; i < 3; ++i) {
      const int v = triangles[3 * t + i];
      if (seen[v]) continue;
      seen[v] = true;
      for (int other : {int(triangles[3 * t + (i + 1) % 3]), int(triangles[3 * t + (i + 2) % 3])})
        if (other < v) (out[v].a < 0 ? out[v].a : out[v].b) = other;
      if (out[v].b >= 0) out[v].c = opposite(triangles, t, out[v].a, out[v].b, v);
    }
  return out;
}

void encode_vertices(const int32_t* vertices, int count, int width, const std::vector<Predictor>& by,
                     BitWriter& out) {
  std::vector<uint64_t> differences(count);
  for (int component = 0; component < width; ++component) {
    for (int v = 0; v < count; ++v)
      differences[v] = fold(vertices[v * width + component] - by[v].predict(vertices, width, v, component));
    int best = 0;
    for (int k = 1; k < 32; ++k)
      if (rice_cost(differences, k) < rice_cost(differences, best)) best = k;
    out.bits(best, parameter_bits);
    for (uint64_t d : differences) out.rice(d, best);
  }
}

bool decode_vertices(int32_t* vertices, int count, int width, const std::vector<Predictor>& by,
                     BitReader& in) {
  for (int component = 0; component < width; ++component) {
    const int k = static_cast<int>(in.bits(parameter_bits));
    for (int v = 0; v < count; ++v) {
      const int64_t value = by[v].predict(vertices, width, v, component) + unfold(in.rice(k));
      if (value < INT32_MIN || value > INT32_MAX) return false;
      vertices[v * width + component] = static_cast<int32_t>(value);
    }
    if (in.past_end()) return false;
  }
  return true;
}

void put_u32(std::vector<uint8_t>& out, uint32_t value) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

uint32_t get_u32(const uint8_t* p) { return p[0] | p[1] << 8 | p[2] << 16 | uint32_t(p[3]) << 24; }

}  // namespace

void VertexLayout::read(const Asset& asset, uint32_t vertex, int32_t* out) const {
  for (int a = 0; a < 3; ++a)
    *out++ = static_cast<int32_t>(std::lrint(double(asset.positions[3 * size_t(vertex) + a]) / asset.step));
  if (normals_) {
    const uint32_t code = encode_normal(&asset.normals[3 * size_t(vertex)]);
    *out++ = code & normal_mask, *out++ = code >> normal_bits & normal_mask;
  }
  for (int a = 0; uvs_ && a < 2; ++a) *out++ = encode_uv(asset.uvs[2 * size_t(vertex) + a], asset.uv_step);
  for (int a = 0; colors_ && a < 4; ++a)
    *out++ = static_cast<int32_t>(std::lrint(asset.colors[4 * size_t(vertex) + a] * 255));
  if (materials_) *out++ = static_cast<int32_t>(asset.materials[vertex]);
}

bool VertexLayout::append(const int32_t* values, Asset& asset) const {
  for (int a = 0; a < 3; ++a, ++values) {
    if (*values < -(1 << 24) || *values > 1 << 24) return false;
    asset.positions.push_back(float(*values) * asset.step);
  }
  if (normals_) {
    constexpr int32_t largest = normal_mask - 1;
    if (values[0] < 0 || values[0] > largest || values[1] < 0 || values[1] > largest) return false;
    float normal[3];
    decode_normal(uint32_t(values[0]) | uint32_t(values[1]) << normal_bits, normal);
    asset.normals.insert(asset.normals.end(), normal, normal + 3);
    values += 2;
  }
  for (int a = 0; uvs_ && a < 2; ++a) asset.uvs.push_back(decode_uv(*values++, asset.uv_step));
  for (int a = 0; colors_ && a < 4; ++a, ++values) {
    if (*values < 0 || *values > 255) return false;
    asset.colors.push_back(float(*values) / 255);
  }
  if (materials_) asset.materials.push_back(static_cast<uint32_t>(*values));
  return true;
}

std::vector<uint8_t> encode_group(const Asset& asset, const Group& group, const VertexLayout& layout) {
  std::vector<uint8_t> out;
  std::vector<uint32_t> indices;
  uint32_t base = 0;
  const int width = layout.width();
  for (uint32_t c = group.cluster_begin; c < group.cluster_begin + group.cluster_count; ++c) {
    const Cluster& cluster = asset.clusters[c];
    out.push_back(static_cast<uint8_t>(cluster.vertex_count));
    out.push_back(static_cast<uint8_t>(cluster.triangle_count));
    const uint8_t* corner = &asset.triangles[3 * size_t(cluster.triangle_begin)];
    for (int i = 0; i < 3 * cluster.triangle_count; ++i) indices.push_back(base + corner[i]);
    base += cluster.vertex_count;
  }
  std::vector<unsigned char> coded(meshopt().encode_index_bound(indices.size(), base));
  coded.resize(meshopt().encode_index(coded.data(), coded.size(), indices.data(), indices.size()));
  put_u32(out, static_cast<uint32_t>(coded.size()));
  out.insert(out.end(), coded.begin(), coded.end());

  BitWriter bits;
  std::vector<int32_t> vertices;
  for (uint32_t c = group.cluster_begin; c < group.cluster_begin + group.cluster_count; ++c) {
    const Cluster& cluster = asset.clusters[c];
    vertices.resize(size_t(cluster.vertex_count) * width);
    for (int v = 0; v < cluster.vertex_count; ++v)
      layout.read(asset, asset.vertex_refs[cluster.vertex_begin + v], &vertices[size_t(v) * width]);
    const auto by = predictors(&asset.triangles[3 * size_t(cluster.triangle_begin)], cluster.triangle_count,
                               cluster.vertex_count);
    encode_vertices(vertices.data(), cluster.vertex_count, width, by, bits);
  }
  out.insert(out.end(), bits.bytes.begin(), bits.bytes.end());
  return out;
}

bool decode_group(const uint8_t* data, size_t size, int clusters, const VertexLayout& layout,
                  DecodedGroup& out, std::string& why) {
  auto fail = [&](const char* text) {
    why = text;
    return false;
  };
  const size_t header = 2 * size_t(clusters) + 4;
  if (size < header) return fail("is shorter than its header");
  uint32_t triangles = 0;
  for (int c = 0; c < clusters; ++c) {
    out.vertex_counts.push_back(data[2 * c]);
    out.triangle_counts.push_back(data[2 * c + 1]);
    if (data[2 * c] < 3 || data[2 * c + 1] < 1 || data[2 * c + 1] > max_cluster_triangles)
      return fail("has a cluster of an impossible size");
    triangles += data[2 * c + 1];
  }
  const size_t coded = get_u32(data + header - 4);
  if (coded > size - header) return fail("has an index part that is longer than itself");
  std::vector<uint32_t> indices(size_t(triangles) * 3);
  if (meshopt().decode_index(indices.data(), indices.size(), 4, data + header, coded) != 0)
    return fail("has indices that cannot be decoded");

  BitReader bits(data + header + coded, size - header - coded);
  const int width = layout.width();
  uint32_t base = 0;
  size_t at = 0;
  for (int c = 0; c < clusters; ++c) {
    const size_t first = out.triangles.size();
    for (int t = 0; t < out.triangle_counts[c]; ++t, at += 3) {
      for (int i = 0; i < 3; ++i)
        if (indices[at + i] - base >= out.vertex_counts[c]) return fail("has an index outside its cluster");
      // the codec may turn a triangle: back to the smallest local index first
      const uint32_t* v = &indices[at];
      const int lead = v[1] < v[0] && v[1] < v[2] ? 1 : v[2] < v[0] && v[2] < v[1] ? 2 : 0;
      for (int i = 0; i < 3; ++i) out.triangles.push_back(static_cast<uint8_t>(v[(lead + i) % 3] - base));
    }
    const auto by = predictors(out.triangles.data() + first, out.triangle_counts[c], out.vertex_counts[c]);
    out.vertices.resize(out.vertices.size() + size_t(out.vertex_counts[c]) * width);
    int32_t* into = out.vertices.data() + out.vertices.size() - size_t(out.vertex_counts[c]) * width;
    if (!decode_vertices(into, out.vertex_counts[c], width, by, bits))
      return fail("has vertices that cannot be decoded");
    base += out.vertex_counts[c];
  }
  return true;
}

}  // namespace nanite_cull
