// meshoptimizer (Arseny Kapoulkine, MIT) through its C interface, found at run time.
//
// conda-forge ships libmeshoptimizer; the wheel on PyPI carries the same C functions inside its
// extension module. Either is opened by path, and the few functions that are needed are looked up by
// name, so nothing of it is compiled or copied here.
#pragma once

#include <cstddef>
#include <string>

namespace nanite_cull {

// The layout that the library writes (stable since its first release).
struct MeshoptMeshlet {
  unsigned vertex_offset, triangle_offset, vertex_count, triangle_count;
};

struct MeshoptApi {
  size_t (*build_bound)(size_t index_count, size_t max_vertices, size_t max_triangles);
  size_t (*build_flex)(MeshoptMeshlet*, unsigned* vertices, unsigned char* triangles, const unsigned* indices,
                       size_t index_count, const float* positions, size_t vertex_count, size_t stride,
                       size_t max_vertices, size_t min_triangles, size_t max_triangles, float cone_weight,
                       float split_factor);
  size_t (*simplify)(unsigned* destination, const unsigned* indices, size_t index_count,
                     const float* positions, size_t vertex_count, size_t stride, const float* attributes,
                     size_t attribute_stride, const float* weights, size_t attribute_count,
                     const unsigned char* lock, size_t target_count, float target_error, unsigned options,
                     float* error);
  size_t (*encode_vertex_bound)(size_t count, size_t size);
  size_t (*encode_vertex)(unsigned char* buffer, size_t buffer_size, const void* vertices, size_t count,
                          size_t size);
  int (*decode_vertex)(void* destination, size_t count, size_t size, const unsigned char* buffer,
                       size_t buffer_size);
  size_t (*encode_index_bound)(size_t index_count, size_t vertex_count);
  size_t (*encode_index)(unsigned char* buffer, size_t buffer_size, const unsigned* indices,
                         size_t index_count);
  int (*decode_index)(void* destination, size_t index_count, size_t index_size, const unsigned char* buffer,
                      size_t buffer_size);
  std::string path;

  // Groups neighbouring clusters. The argument list of the function grew in 0.25: this hides it.
  size_t partition(unsigned* destination, const unsigned* indices, size_t index_count, const unsigned* counts,
                   size_t cluster_count, const float* positions, size_t vertex_count, size_t target) const;

  void* partition_function = nullptr;
  bool partition_takes_positions = false;
};

constexpr unsigned simplify_error_absolute = 1u << 2;
constexpr unsigned simplify_prune = 1u << 3;

// Opens the library once in a process; later calls ignore `path`. Throws native::MachineError when it
// is missing or too old.
const MeshoptApi& open_meshopt(const std::string& path);

// The library that open_meshopt opened. Throws native::MachineError before that.
const MeshoptApi& meshopt();

}  // namespace nanite_cull
