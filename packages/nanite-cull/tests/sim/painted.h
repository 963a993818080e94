// Scenes whose pixels have everything that is resolved: normals, textures, colours, materials, and none.
#pragma once

#include "scenes.h"

namespace painted {

using namespace nanite_cull;

// The leafy patch with normals, every second material of linear colours, all of them with a picture.
inline std::shared_ptr<const Asset> painted_patch(const Asset& patch) {
  Asset a = *scenes::leafy(patch);
  for (size_t v = 0; v < a.vertex_count(); ++v) {
    const float x = a.positions[3 * v], y = a.positions[3 * v + 1];
    a.normals.insert(a.normals.end(), {0.3f * x, 0.2f * y, 1});
  }
  Surfaces surfaces = *a.surfaces;
  for (size_t i = 0; i < surfaces.table.size(); ++i) {
    Surface& surface = surfaces.table[i];
    surface.texture = surfaces.textures[0]->texture(), surface.linear_colors = i % 2;
    surface.sampler.wrap[0] = i == 2 ? Wrap::clamp : Wrap::repeat;
    surface.sampler.mip = i == 0 ? MipFilter::nearest : MipFilter::linear;
    surface.sampler.magnify = i == 1 ? Filter::nearest : Filter::linear;
    surface.to_picture[1] = 0.25f * static_cast<float>(i);
  }
  surfaces.table[0].masked = 0;
  a.surfaces = std::make_shared<const Surfaces>(std::move(surfaces));
  return std::make_shared<const Asset>(std::move(a));
}

// Instances with normals and without, of textures, colours, materials and of none.
inline void fill(Scene& scene, int count, scenes::Random& random) {
  scenes::fill(scene, count, 1.5, random, true);
  const uint32_t asset = scene.add_asset(painted_patch(*scenes::patch(4, 1, 3)));
  for (int i = 0; i < count / 2; ++i) {
    double place[12];
    for (double& x : place) x = random(-1, 1);
    for (int k = 0; k < 3; ++k) place[5 * k] += 1.2;
    scene.add(asset, place, 1, 1);
  }
}

inline View look(scenes::Random& random, double distance, int width, int height) {
  const double eye[3] = {random(-1, 1), random(-1, 1), distance}, centre[3] = {0, 0, 0};
  return scenes::perspective(eye, centre, 1.2, 0.2, width, height, 1);
}

inline CullOptions options(Traversal traversal = Traversal::levels) {
  CullOptions out;
  out.threads = 1, out.traversal = traversal;
  out.max_candidate_nodes = out.max_candidate_clusters = out.max_visible_clusters = 2048;
  return out;
}

}  // namespace painted
