#include "build/meshopt_api.h"

#include <dlfcn.h>

#include <mutex>

#include "native/check.h"

namespace nanite_cull {

namespace {

using PartitionByIndices = size_t (*)(unsigned*, const unsigned*, size_t, const unsigned*, size_t, size_t,
                                      size_t);
using PartitionByPositions = size_t (*)(unsigned*, const unsigned*, size_t, const unsigned*, size_t,
                                        const float*, size_t, size_t, size_t);

MeshoptApi opened;
std::mutex opening;

template <class F>
void look_up(void* library, const std::string& path, const char* name, F& function) {
  void* address = dlsym(library, name);
  if (address == nullptr)
    throw native::MachineError("nanite_cull: the meshoptimizer library " + path + " has no function " + name +
                               ": version 0.23 or newer is needed (pip install --pre meshoptimizer, or "
                               "conda install meshoptimizer)");
  function = reinterpret_cast<F>(address);
}

}  // namespace

size_t MeshoptApi::partition(unsigned* destination, const unsigned* indices, size_t index_count,
                             const unsigned* counts, size_t cluster_count, const float* positions,
                             size_t vertex_count, size_t target) const {
  if (partition_takes_positions)
    return reinterpret_cast<PartitionByPositions>(partition_function)(
        destination, indices, index_count, counts, cluster_count, positions, vertex_count, 3 * sizeof(float),
        target);
  return reinterpret_cast<PartitionByIndices>(partition_function)(destination, indices, index_count, counts,
                                                                  cluster_count, vertex_count, target);
}

const MeshoptApi& open_meshopt(const std::string& path) {
  std::lock_guard<std::mutex> lock(opening);
  if (!opened.path.empty()) return opened;
  // The wheel's module refers to Python; lazy binding leaves those names alone, they are never called.
  void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr)
    throw native::MachineError("nanite_cull: cannot open the meshoptimizer library " + path + ": " +
                               dlerror());
  MeshoptApi api;
  look_up(library, path, "meshopt_buildMeshletsBound", api.build_bound);
  look_up(library, path, "meshopt_buildMeshletsFlex", api.build_flex);
  look_up(library, path, "meshopt_simplifyWithAttributes", api.simplify);
  look_up(library, path, "meshopt_encodeVertexBufferBound", api.encode_vertex_bound);
  look_up(library, path, "meshopt_encodeVertexBuffer", api.encode_vertex);
  look_up(library, path, "meshopt_decodeVertexBuffer", api.decode_vertex);
  look_up(library, path, "meshopt_encodeIndexBufferBound", api.encode_index_bound);
  look_up(library, path, "meshopt_encodeIndexBuffer", api.encode_index);
  look_up(library, path, "meshopt_decodeIndexBuffer", api.decode_index);
  look_up(library, path, "meshopt_partitionClusters", api.partition_function);
  // Both appeared in 0.25, the release that gave partitionClusters its positions.
  const bool has_update = dlsym(library, "meshopt_simplifyWithUpdate") != nullptr;
  const bool has_sphere = dlsym(library, "meshopt_computeSphereBounds") != nullptr;
  if (has_sphere && !has_update)
    throw native::MachineError("nanite_cull: meshoptimizer 0.24 (" + path +
                               ") has an interface between two " +
                               "stable ones; install 0.23 or 1.0 and newer");
  api.partition_takes_positions = has_update;
  api.path = path;
  opened = api;
  return opened;
}

const MeshoptApi& meshopt() {
  if (opened.path.empty())
    throw native::MachineError("nanite_cull: meshoptimizer was not opened; call open_meshopt(path) first");
  return opened;
}

}  // namespace nanite_cull
