// Lenses of views, lights and shadow maps of any depths, for tests of what light does.
#pragma once

#include <cmath>
#include <vector>

#include "resolve/light.h"
#include "resolve/unproject.h"
#include "scenes.h"

namespace lamps {

using namespace nanite_cull;

constexpr double fov = 1.2;  // of painted::look

// The lens of such a view. `orthographic`: one that says so of the same picture, for what it then computes.
struct ViewLens {
  std::vector<float> x, y;
  Lens lens;
  Unprojection exact;

  ViewLens(const View& view, bool orthographic) {
    const double f = 1 / std::tan(fov / 2), window[2] = {f * view.height / view.width, f};
    for (int a = 0; a < 3; ++a) {
      const double* m = view.relative_to_clip + a;
      const double rows[3] = {m[0] / window[0], m[4] / window[1], -m[12]};
      for (int i = 0; i < 3; ++i)
        lens.rotation[3 * i + a] = lens.to_world[3 * a + i] = static_cast<float>(rows[i]),
                              exact.to_world[3 * a + i] = rows[i];
      exact.eye[a] = view.eye[a];
    }
    for (int i = 0; i < view.width; ++i) exact.ray_x.push_back(((i + 0.5) * 2 / view.width - 1) / window[0]);
    for (int i = 0; i < view.height; ++i)
      exact.ray_y.push_back((1 - (i + 0.5) * 2 / view.height) / window[1]);
    x.assign(exact.ray_x.begin(), exact.ray_x.end()), y.assign(exact.ray_y.begin(), exact.ray_y.end());
    lens.ray_x = x.data(), lens.ray_y = y.data();
    lens.orthographic = orthographic, lens.near_distance = view.near_distance;
    lens.far_distance = 9, lens.extent = lens.far_distance - lens.near_distance;
    lens.pixel = static_cast<float>(2 / (f * view.height));
    exact.orthographic = orthographic;
    exact.near_distance = lens.near_distance, exact.far_distance = lens.far_distance;
  }
};

// Two suns and two lamps, one that fades, with maps of any depths: finer ones that hold little, a coarse one.
struct Lamps {
  std::vector<float> depth;
  Lights all;

  explicit Lamps(scenes::Random& random) {
    all.size = 20;
    for (int m = 0; m < 6; ++m) {
      const double eye[3] = {random(-3, 3), random(-3, 3), random(3, 6)}, centre[3] = {0, 0, 0};
      View map = scenes::perspective(eye, centre, m % 2 ? 1.5 : 0.5, 0.1, all.size, all.size, 1);
      if (m < 4) {  // a sun's
        map.orthographic = true;
        for (int j = 0; j < 4; ++j) map.relative_to_clip[12 + j] = j == 3;
        for (int j = 0; j < 8; ++j) map.relative_to_clip[j] *= 0.4;
        for (int j = 0; j < 3; ++j) map.relative_to_clip[8 + j] = 0.05 * eye[j];
        map.relative_to_clip[11] = 0.5;
      }
      all.maps.push_back(map);
    }
    for (size_t i = 0; i < all.maps.size() * all.size * all.size; ++i)
      depth.push_back(static_cast<float>(random(0, 1)));
    all.depth = depth.data();
    for (uint32_t l = 0; l < 4; ++l) {
      Light light;
      light.sun = l < 2, light.strength = 0.2f + 0.1f * static_cast<float>(l), light.bias = 2;
      for (double& x : light.at) x = light.sun ? random(0.3, 0.8) : random(-2, 2);
      if (l == 3) light.fade = 2, light.range = 4;
      light.first_map = l < 2 ? 2 * l : 2 + l, light.maps = l < 2 ? 2 : 1;
      all.lights.push_back(light);
    }
  }
};

}  // namespace lamps
