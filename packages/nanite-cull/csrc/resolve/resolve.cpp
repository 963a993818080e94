#include "resolve/resolve.h"

#include "native/parallel.h"
#include "resolve/interpolator.h"

namespace nanite_cull {

namespace {

// Pixels that what is seen at a pixel has moved by since the frame before.
void velocity_of(const Interpolator& tri, const float* weight, const float* before, const View& view,
                 float* out) {
  float place[3];
  tri.blend(tri.vertices->positions, 3, weight, place);
  const ClipVertex now = to_clip(tri.draw->to_clip, place), then = to_clip(before, place);
  out[0] = out[1] = 0;
  if (!(now.w > 0 && then.w > 0)) return;
  out[0] = (now.x / now.w - then.x / then.w) * (0.5f * float(view.width));
  out[1] = (then.y / then.w - now.y / now.w) * (0.5f * float(view.height));
}

}  // namespace

void resolve(const Draws& draws, const View& view, const VisibleClusters& visible,
             const VisibilityBuffer& buffer, const Motion& motion, const ResolveTargets& t, int threads) {
  native::parallel_for(buffer.height, 16, threads, [&](int64_t first, int64_t last) {
    Interpolator tri;
    const Wants wants{t.normal != nullptr, t.uv != nullptr, t.color != nullptr, t.velocity != nullptr};
    for (int64_t y = first; y < last; ++y)
      for (int x = 0; x < buffer.width; ++x) {
        const size_t at = size_t(y) * buffer.width + x;
        const bool drawn = buffer.depth[at] > 0;
        if (drawn && (!tri.valid || tri.id != buffer.id[at]))
          tri.prepare(draws, visible, buffer.id[at], wants);
        if (t.instance)
          t.instance[at] = drawn ? visible.buffer[buffer.id[at] >> triangle_bits].instance : none;
        if (t.cluster) t.cluster[at] = drawn ? tri.cluster : none;
        if (t.triangle) t.triangle[at] = drawn ? tri.triangle : none;
        if (t.level) t.level[at] = drawn ? tri.asset->clusters[tri.cluster].level : none;
        if (t.material)
          t.material[at] =
              drawn && !tri.vertices->materials.empty() ? tri.vertices->materials[tri.corner[0]] : none;
        float weight[3] = {0, 0, 0}, value[4] = {0, 0, 0, 0};
        if (drawn && tri.interpolates) tri.weights(view, x, static_cast<int>(y), weight);
        if (t.normal) {
          float* out = t.normal + 3 * at;
          if (!drawn) {
            out[0] = out[1] = out[2] = 0;
          } else {
            tri.normal(weight, out);
          }
        }
        if (t.uv) {
          if (drawn && !tri.vertices->uvs.empty())
            tri.blend(tri.vertices->uvs, 2, weight, value);
          else
            value[0] = value[1] = 0;
          for (int a = 0; a < 2; ++a) t.uv[2 * at + a] = value[a];
        }
        if (t.velocity) {
          float* out = t.velocity + 2 * at;
          out[0] = out[1] = 0;
          if (drawn && !motion.to_clip.empty())
            velocity_of(tri, weight, &motion.to_clip[16 * (tri.draw - draws.draws.data())], view, out);
        }
        if (t.color) {
          float* out = t.color + 4 * at;
          if (drawn)
            tri.color(weight, out);
          else
            out[0] = out[1] = out[2] = out[3] = 0;
        }
      }
  });
}

}  // namespace nanite_cull
