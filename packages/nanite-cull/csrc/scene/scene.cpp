#include "scene/scene.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <string>

#include "native/check.h"
#include "native/parallel.h"

namespace nanite_cull {

namespace {

constexpr double bound_slack = 1e-5;  // relative: covers the rounding of everything that follows in float

// Singular values (largest, smallest) of a 3x3 matrix: Jacobi rotations of its Gram matrix.
void singular_values(const double m[3][3], double& largest, double& smallest) {
  double g[3][3];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) g[i][j] = m[0][i] * m[0][j] + m[1][i] * m[1][j] + m[2][i] * m[2][j];
  for (int sweep = 0; sweep < 12; ++sweep)
    for (int p = 0; p < 2; ++p)
      for (int q = p + 1; q < 3; ++q) {
        if (std::fabs(g[p][q]) <= 1e-14 * (g[p][p] + g[q][q])) continue;
        const double theta = (g[q][q] - g[p][p]) / (2 * g[p][q]);
        const double t = (theta < 0 ? -1 : 1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < 3; ++k) {
          const double a = g[k][p], b = g[k][q];
          g[k][p] = c * a - s * b, g[k][q] = s * a + c * b;
        }
        for (int k = 0; k < 3; ++k) {
          const double a = g[p][k], b = g[q][k];
          g[p][k] = c * a - s * b, g[q][k] = s * a + c * b;
        }
      }
  largest = std::sqrt(std::max({g[0][0], g[1][1], g[2][2]}));
  smallest = std::sqrt(std::max(0.0, std::min({g[0][0], g[1][1], g[2][2]})));
}

// Calls body for every vector that has one entry (or nine) for each instance.
template <class Body>
void each_column(InstanceSpheres& spheres, InstanceLanes& lanes, Body&& body) {
  for (auto* v : {&spheres.x, &spheres.y, &spheres.z, &spheres.r, &lanes.largest, &lanes.smallest})
    body(*v, 1);
  for (auto& v : lanes.inverse) body(v, 1);
  for (auto& v : lanes.translation) body(v, 1);
  body(lanes.asset, 1);
}

// Throws for a transform that is singular or not finite; returns the determinant of its linear part.
double check_transform(const double* t, int64_t index) {
  double size = 0;
  bool finite = true;
  for (int i = 0; i < 12; ++i) {
    finite = finite && std::isfinite(t[i]);
    if (i % 4 != 3) size = std::max(size, std::fabs(t[i]));
  }
  const double determinant = t[0] * (t[5] * t[10] - t[6] * t[9]) - t[1] * (t[4] * t[10] - t[6] * t[8]) +
                             t[2] * (t[4] * t[9] - t[5] * t[8]);
  native::demand(finite && std::fabs(determinant) > 1e-12 * size * size * size, [&] {
    return "Scene: transforms must be finite and invertible, instance " + std::to_string(index) +
           " has determinant " + std::to_string(determinant) + "; leave an instance out to hide it";
  });
  return determinant;
}

}  // namespace

RootCluster root_of(const Asset& asset) {
  RootCluster root;
  uint32_t found = 0;
  for (const Group& group : asset.groups) {
    if (group.bounds.error < infinite_error) continue;
    found += group.cluster_count;
    root.cluster = group.cluster_begin;
  }
  if (found != 1) return {};
  const uint32_t c = root.cluster;
  const ClusterBounds& b = asset.bounds;
  root.own = {{b.x[c], b.y[c], b.z[c], b.r[c]}, b.error[c]};
  for (int a = 0; a < 3; ++a) root.box.lo[a] = b.lo[a][c], root.box.hi[a] = b.hi[a][c];
  root.longest_edge = asset.clusters[c].longest_edge;
  root.triangles = asset.clusters[c].triangle_count;
  return root;
}

uint32_t Scene::add_asset(std::shared_ptr<const Asset> asset) {
  const std::unique_lock held(lock);
  for (uint32_t i = 0; i < assets.size(); ++i)
    if (assets[i] == asset) return i;
  roots.push_back(root_of(*asset));
  assets.push_back(std::move(asset));
  return static_cast<uint32_t>(assets.size() - 1);
}

uint32_t Scene::add(uint32_t asset, const double* transforms, int64_t count, int threads) {
  const std::unique_lock held(lock);
  native::demand(asset < assets.size(),
                 [&] { return "Scene.add: asset " + std::to_string(asset) + " is unknown"; });
  native::demand(size() + count < int64_t(none),
                 [] { return std::string("Scene.add: at most 2^32 - 2 instances"); });
  const int64_t first = size();
  native::parallel_for(count, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) check_transform(transforms + 12 * i, first + i);
  });
  resize(first + count);
  std::fill(changed_.begin() + first, changed_.end(), 2 * epoch() + 1);
  std::fill(lanes.asset.begin() + first, lanes.asset.end(), asset);
  native::parallel_for(count, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) set(first + i, transforms + 12 * i);
  });
  return static_cast<uint32_t>(first);
}

void Scene::check_slice(const char* function, int64_t first, int64_t count) const {
  native::demand(first >= 0 && count >= 0 && first + count <= size(), [&] {
    return std::string("Scene.") + function + ": instances " + std::to_string(first) + " to " +
           std::to_string(first + count) + " do not exist; the scene has " + std::to_string(size());
  });
}

void Scene::update(int64_t first, const double* transforms, int64_t count, int threads) {
  const std::unique_lock held(lock);
  check_slice("update", first, count);
  native::parallel_for(count, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) check_transform(transforms + 12 * i, first + i);
  });
  if (epoch() > 0) previous_.resize(12 * size());
  native::parallel_for(count, 4096, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) keep_previous(first + i), set(first + i, transforms + 12 * i);
  });
}

void Scene::keep_previous(int64_t index) {
  if (previous_.empty() || changed_[index] / 2 == epoch()) return;
  changed_[index] = 2 * epoch();
  double* kept = &previous_[12 * index];
  std::copy_n(linear(index), 9, kept);
  for (int i = 0; i < 3; ++i) kept[9 + i] = lanes.translation[i][index];
}

bool Scene::previous(int64_t index, uint64_t epoch, Placement& out) const {
  if (changed_[index] == 2 * epoch + 1) return false;
  out = placement(index);
  if (changed_[index] != 2 * epoch) return true;
  const double* kept = &previous_[12 * index];
  out = {kept, {kept[9], kept[10], kept[11]}};
  return true;
}

void Scene::hide(int64_t first, int64_t count, bool hidden) {
  const std::unique_lock held(lock);
  check_slice("hide", first, count);
  for (int64_t i = first; i < first + count; ++i) hidden_[i] = hidden, set_sphere(i);
}

void Scene::remove(int64_t first, int64_t count) {
  const std::unique_lock held(lock);
  check_slice("remove", first, count);
  auto erase = [&](auto& column, int width) {
    column.erase(column.begin() + first * width, column.begin() + (first + count) * width);
  };
  each_column(spheres, lanes, erase);
  erase(linear_, 9), erase(hidden_, 1), erase(changed_, 1);
  if (!previous_.empty()) erase(previous_, 12);
}

void Scene::resize(int64_t count) {
  each_column(spheres, lanes, [&](auto& column, int width) { column.resize(count * width); });
  linear_.resize(9 * count), hidden_.resize(count, 0), changed_.resize(count);
  if (!previous_.empty()) previous_.resize(12 * count);
}

bool Scene::mirrored(int64_t index) const {
  const double* m = linear(index);
  return m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6]) +
             m[2] * (m[3] * m[7] - m[4] * m[6]) <
         0;
}

void Scene::transform(int64_t index, double* out) const {
  const double* m = linear(index);
  const double* origin = assets[lanes.asset[index]]->origin;
  for (int i = 0; i < 3; ++i) {
    double moved = 0;
    for (int j = 0; j < 3; ++j) out[4 * i + j] = m[3 * i + j], moved += m[3 * i + j] * origin[j];
    out[4 * i + 3] = lanes.translation[i][index] - moved;
  }
}

void Scene::set(int64_t index, const double* t) {
  double m[3][3];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) linear_[9 * index + 3 * i + j] = m[i][j] = t[4 * i + j];
  auto cofactor = [&](int i, int j) {
    const int a = (i + 1) % 3, b = (i + 2) % 3, c = (j + 1) % 3, d = (j + 2) % 3;
    return m[a][c] * m[b][d] - m[a][d] * m[b][c];
  };
  const double determinant = m[0][0] * cofactor(0, 0) + m[0][1] * cofactor(0, 1) + m[0][2] * cofactor(0, 2);
  double largest, smallest;
  singular_values(m, largest, smallest);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      lanes.inverse[3 * i + j][index] = static_cast<float>(cofactor(j, i) / determinant);
  lanes.largest[index] = static_cast<float>(largest * (1 + bound_slack));
  lanes.smallest[index] = static_cast<float>(smallest * (1 - bound_slack));
  const double* origin = assets[lanes.asset[index]]->origin;
  for (int i = 0; i < 3; ++i)
    lanes.translation[i][index] =
        t[4 * i + 3] + (m[i][0] * origin[0] + m[i][1] * origin[1] + m[i][2] * origin[2]);
  set_sphere(index);
}

void Scene::set_sphere(int64_t index) {
  if (hidden_[index]) {
    spheres.r[index] = -infinite_error;
    return;
  }
  const Sphere& s = assets[lanes.asset[index]]->sphere;
  const double* m = linear(index);
  double centre[3];
  for (int i = 0; i < 3; ++i)
    centre[i] = m[3 * i] * s.x + m[3 * i + 1] * s.y + m[3 * i + 2] * s.z + lanes.translation[i][index];
  spheres.x[index] = static_cast<float>(centre[0]);
  spheres.y[index] = static_cast<float>(centre[1]);
  spheres.z[index] = static_cast<float>(centre[2]);
  const double reach = std::fabs(centre[0]) + std::fabs(centre[1]) + std::fabs(centre[2]);
  spheres.r[index] =
      static_cast<float>((s.r * double(lanes.largest[index])) * (1 + bound_slack) + reach * 1e-6);
}

}  // namespace nanite_cull
