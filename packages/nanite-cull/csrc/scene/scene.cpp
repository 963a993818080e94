#include "scene/scene.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <string>

#include "native/check.h"
#include "native/parallel.h"
#include "scene/derive.h"

namespace nanite_cull {

namespace {

constexpr int64_t chunk = 4096;  // instances of one piece of work
std::atomic<uint64_t> last_revision{0};
constexpr double farthest_place = 1e32;  // and the least scale is its inverse
constexpr float rounded_up = 1.00001f;   // what a drift can lose by rounding
// Calls body for every vector that has one entry (or nine) for each instance.
template <class Body>
void each_column(InstanceSpheres& spheres, InstanceLanes& lanes, Body&& body) {
  for (auto* v : {&spheres.x, &spheres.y, &spheres.z, &spheres.r, &lanes.largest, &lanes.smallest})
    body(*v, 1);
  for (auto& v : lanes.inverse) body(v, 1);
  for (auto& v : lanes.translation) body(v, 1);
  body(lanes.asset, 1);
}

// How far an asset reaches from its own origin, in the sum over the axes; a radius is stretched by the
// largest singular value, at most three times the largest entry.
double reach_of(const Asset& asset) {
  const Sphere& s = asset.sphere;
  double reach = std::fabs(s.x) + std::fabs(s.y) + std::fabs(s.z) + 3 * double(s.r);
  for (const double o : asset.origin) reach += std::fabs(o);
  return reach;
}

[[noreturn]] void refuse(const double* t, int64_t number) {
  const std::string instance = "instance " + std::to_string(number);
  if (all_placeable(t, 1, 0, std::numeric_limits<double>::infinity()))
    throw native::ValueError(
        "Scene: transforms must place assets well within 1e32 of the world's origin, at a scale of " +
        ("1e-32 or more; " + instance) + " lies beyond or is smaller; choose another unit of length");
  throw native::ValueError("Scene: transforms must be finite and invertible, " + instance +
                           " has determinant " + std::to_string(determinant(t)) +
                           "; leave an instance out to hide it");
}

// Throws for a transform that is singular, not finite or out of range. reach(i): of the asset of transform i;
// no asset reaches farther than `farthest_reach`.
template <class Reach>
void check_transforms(const double* t, int64_t count, int64_t first, int threads, double farthest_reach,
                      Reach&& reach) {
  native::parallel_for(count, chunk, threads, [&](int64_t begin, int64_t end) {
    if (all_placeable(t + 12 * begin, end - begin, farthest_reach, farthest_place)) return;
    for (int64_t i = begin; i < end; ++i)
      if (!all_placeable(t + 12 * i, 1, reach(i), farthest_place)) refuse(t + 12 * i, first + i);
  });
}

inline void load_lane(const double* rows, const Sphere& sphere, const double* origin, int lane,
                      Transforms& in) {
  for (int k = 0; k < 12; ++k) in.m[k][lane] = rows[k];
  for (int a = 0; a < 3; ++a) in.origin[a][lane] = origin[a];
  in.sphere[0][lane] = sphere.x, in.sphere[1][lane] = sphere.y, in.sphere[2][lane] = sphere.z;
  in.sphere[3][lane] = sphere.r;
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
  return enter(std::move(asset));
}

uint32_t Scene::add(uint32_t asset, const double* transforms, int64_t count, int threads) {
  const std::unique_lock held(lock);
  native::demand(asset < assets.size(),
                 [&] { return "Scene.add: asset " + std::to_string(asset) + " is unknown"; });
  check_new(*assets[asset], transforms, count, threads);
  return append(asset, transforms, count, threads);
}

std::pair<uint32_t, uint32_t> Scene::add_with_asset(std::shared_ptr<const Asset> asset,
                                                    const double* transforms, int64_t count, int threads) {
  const std::unique_lock held(lock);
  check_new(*asset, transforms, count, threads);
  const uint32_t number = enter(std::move(asset));
  return {number, append(number, transforms, count, threads)};
}

uint32_t Scene::enter(std::shared_ptr<const Asset> asset) {
  for (uint32_t i = 0; i < assets.size(); ++i)
    if (assets[i] == asset) return i;
  roots.push_back(root_of(*asset));
  farthest_reach_ = std::max(farthest_reach_, reach_of(*asset));
  assets.push_back(std::move(asset));
  return static_cast<uint32_t>(assets.size() - 1);
}

void Scene::check_new(const Asset& asset, const double* transforms, int64_t count, int threads) const {
  native::demand(size() + count < int64_t(none),
                 [] { return std::string("Scene.add: at most 2^32 - 2 instances"); });
  const double reach = reach_of(asset);
  check_transforms(transforms, count, size(), threads, reach, [&](int64_t) { return reach; });
}

uint32_t Scene::append(uint32_t asset, const double* transforms, int64_t count, int threads) {
  const int64_t first = size();
  resize(first + count);
  note_change(first, first + count);
  std::fill(lanes.asset.begin() + first, lanes.asset.end(), asset);
  native::parallel_for(count, chunk, threads, [&](int64_t begin, int64_t end) {
    InstanceTree::Moves unknown;  // those behind the tree are looked at anyway
    set(first + begin, transforms + 12 * begin, end - begin, unknown);
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
  check_transforms(transforms, count, first, threads, farthest_reach_,
                   [&](int64_t i) { return reach_of(*assets[lanes.asset[first + i]]); });
  note_change(first, first + count);
  const std::vector<std::shared_ptr<Track>> tracks = live_tracks();
  for (const auto& track : tracks) track->make_room();
  std::vector<InstanceTree::Moves> moves((count + chunk - 1) / chunk);
  native::parallel_for(count, chunk, threads, [&](int64_t begin, int64_t end) {
    for (const auto& track : tracks)
      for (int64_t i = begin; i < end; ++i) track->keep(first + i, placement(first + i));
    set(first + begin, transforms + 12 * begin, end - begin, moves[begin / chunk]);
  });
  for (size_t i = 1; i < moves.size(); ++i) {
    moves[0].drift = std::max(moves[0].drift, moves[i].drift);
    moves[0].strays.insert(moves[0].strays.end(), moves[i].strays.begin(), moves[i].strays.end());
  }
  if (!moves.empty()) tree_.moved(moves[0]);
}

bool Scene::find_blocks(const float (*planes)[4], int threads, std::vector<uint64_t>& blocks) const {
  if (size() < InstanceTree::fewest) return false;
  {
    const std::lock_guard alone(tree_lock_);
    if (!tree_.current(size())) tree_.build(spheres, threads);
  }
  tree_.find(planes, size(), blocks);  // nobody makes it anew before the scene changes
  return true;
}

std::shared_ptr<Track> Scene::track() const {
  auto out = std::make_shared<Track>();
  out->resize(size());
  out->begin();  // what is there now was there
  const std::lock_guard alone(tracks_lock_);
  tracks_.push_back(out);
  return out;
}

bool Scene::keeps(const Track& track) const {
  const std::vector<std::shared_ptr<Track>> tracks = live_tracks();
  return std::any_of(tracks.begin(), tracks.end(), [&](const auto& t) { return t.get() == &track; });
}

std::vector<std::shared_ptr<Track>> Scene::live_tracks() const {
  const std::lock_guard alone(tracks_lock_);
  std::vector<std::shared_ptr<Track>> out;
  for (const auto& weak : tracks_)
    if (auto track = weak.lock()) out.push_back(std::move(track));
  tracks_.assign(out.begin(), out.end());
  return out;
}

void Scene::hide(int64_t first, int64_t count, bool hidden) {
  const std::unique_lock held(lock);
  check_slice("hide", first, count);
  note_change(first, first + count);
  InstanceTree::Moves moves;
  for (int64_t i = first; i < first + count; ++i) {
    hidden_[i] = hidden;
    if (hidden) {
      spheres.r[i] = -infinite_error;
      continue;
    }
    const Placement at = placement(i);
    double rows[12];
    for (int k = 0; k < 9; ++k) rows[k / 3 * 4 + k % 3] = at.linear[k];
    for (int a = 0; a < 3; ++a) rows[4 * a + 3] = at.translation[a];
    const double here[3] = {0, 0, 0};  // the translation is that of the grid's origin already
    Transforms in;
    Derived out;
    for (int l = 0; l < derived_lanes; ++l) load_lane(rows, assets[lanes.asset[i]]->sphere, here, l, in);
    derive(in, out);
    place(i, out, 1, moves);
  }
  tree_.moved(moves);
}

void Scene::remove(int64_t first, int64_t count) {
  const std::unique_lock held(lock);
  check_slice("remove", first, count);
  note_change(first, size());
  auto erase = [&](auto& column, int width) {
    column.erase(column.begin() + first * width, column.begin() + (first + count) * width);
  };
  each_column(spheres, lanes, erase);
  erase(linear_, 9), erase(hidden_, 1);
  for (const auto& track : live_tracks()) track->erase(first, count);
  if (count > 0) tree_.forget();
}

void Scene::note_change(int64_t first, int64_t last) {
  revision_ = last_revision.fetch_add(1, std::memory_order_relaxed) + 1;
  changes_.resize((std::max(size(), last) + stretch - 1) / stretch);
  for (int64_t i = first / stretch; i * stretch < last; ++i) changes_[i] = revision_;
}

void Scene::resize(int64_t count) {
  each_column(spheres, lanes, [&](auto& column, int width) { column.resize(count * width); });
  linear_.resize(9 * count), hidden_.resize(count, 0);
  for (const auto& track : live_tracks()) track->resize(count);
}

Box Scene::box() const {
  Box out;
  const std::vector<float>* centre[3] = {&spheres.x, &spheres.y, &spheres.z};
  for (int a = 0; a < 3; ++a) {
    float lo = infinite_error, hi = -infinite_error;
    for (int64_t i = 0; i < size(); ++i) {  // a hidden one's radius is minus infinity
      lo = std::min(lo, (*centre[a])[i] - spheres.r[i]);
      hi = std::max(hi, (*centre[a])[i] + spheres.r[i]);
    }
    out.lo[a] = lo, out.hi[a] = hi;
  }
  return out;
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

// Instances [first, first + count), eight at a time; the last few lanes repeat the last instance.
void Scene::set(int64_t first, const double* transforms, int64_t count, InstanceTree::Moves& moves) {
  Transforms in;
  Derived out;
  for (int64_t at = 0; at < count; at += derived_lanes) {
    const int used = static_cast<int>(std::min<int64_t>(derived_lanes, count - at));
    for (int l = 0; l < derived_lanes; ++l) {
      const int64_t i = at + std::min(l, used - 1);
      const double* t = transforms + 12 * i;
      const Asset& asset = *assets[lanes.asset[first + i]];
      load_lane(t, asset.sphere, asset.origin, l, in);
      double* linear = &linear_[9 * (first + i)];
      for (int row = 0; row < 3; ++row)
        for (int k = 0; k < 3; ++k) linear[3 * row + k] = t[4 * row + k];
    }
    derive(in, out);
    if (used == derived_lanes)
      store(first + at, out, derived_lanes, moves);  // known to the compiler
    else
      store(first + at, out, used, moves);
  }
}

inline void Scene::store(int64_t to, const Derived& from, int count, InstanceTree::Moves& moves) {
  for (int k = 0; k < 9; ++k) std::copy_n(from.inverse[k], count, &lanes.inverse[k][to]);
  for (int a = 0; a < 3; ++a) std::copy_n(from.translation[a], count, &lanes.translation[a][to]);
  std::copy_n(from.largest, count, &lanes.largest[to]);
  std::copy_n(from.smallest, count, &lanes.smallest[to]);
  place(to, from, count, moves);
}

// Gives instances their spheres, and the tree to know how far those went.
inline void Scene::place(int64_t to, const Derived& from, int count, InstanceTree::Moves& moves) {
  float *x = &spheres.x[to], *y = &spheres.y[to], *z = &spheres.z[to], *r = &spheres.r[to],
        drift[derived_lanes];
  for (int l = 0; l < count; ++l) {
    const float across = std::max(std::fabs(from.centre[0][l] - x[l]), std::fabs(from.centre[1][l] - y[l]));
    const float away = std::max(across, std::fabs(from.centre[2][l] - z[l]));
    drift[l] = (away + std::max(from.radius[l] - r[l], 0.0f)) * rounded_up;  // a hidden one's is infinite
  }
  std::copy_n(from.centre[0], count, x), std::copy_n(from.centre[1], count, y);
  std::copy_n(from.centre[2], count, z), std::copy_n(from.radius, count, r);
  for (int l = 0; l < count; ++l) {
    if (hidden_[to + l])
      r[l] = -infinite_error;
    else if (drift[l] <= tree_.reach())
      moves.drift = std::max(moves.drift, drift[l]);
    else
      moves.strays.push_back(static_cast<uint32_t>(to + l));
  }
}

}  // namespace nanite_cull
