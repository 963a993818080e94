// Materials and the pyramids of their textures.
#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/stages.h"
#include "build/surfaces.h"

using namespace nanite_cull;

void nanite_cull::bind_materials(nb::module_& m) {
  nb::enum_<Wrap>(m, "Wrap")
      .value("repeat", Wrap::repeat)
      .value("mirror", Wrap::mirror)
      .value("clamp", Wrap::clamp);
  nb::enum_<Filter>(m, "Filter").value("nearest", Filter::nearest).value("linear", Filter::linear);
  nb::enum_<MipFilter>(m, "MipFilter")
      .value("off", MipFilter::off)
      .value("nearest", MipFilter::nearest)
      .value("linear", MipFilter::linear);
  nb::class_<MipChain>(m, "MipChain", nb::is_weak_referenceable())
      .def(
          "__init__",
          [](MipChain* self, Array<uint8_t, nb::shape<-1, -1, 4>> rgba, int threads) {
            const int height = static_cast<int>(rgba.shape(0)), width = static_cast<int>(rgba.shape(1));
            nb::gil_scoped_release released;
            new (self) MipChain(rgba.data(), height, width, threads);
          },
          "rgba"_a.noconvert(), "threads"_a = 0)
      // (texels, 4) bytes: all levels one behind the other
      .def_prop_ro("texels", [](nb::handle_t<MipChain> s) {
        auto& chain = nb::cast<const MipChain&>(s);
        const size_t shape[2] = {chain.bytes() / 4, 4};
        return Out<const uint8_t>(reinterpret_cast<const uint8_t*>(chain.texture().texels), 2, shape, s);
      });
  nb::class_<Surfaces>(m, "Surfaces")
      .def(nb::init<>())
      .def(
          "add",
          [](Surfaces& s, std::shared_ptr<const MipChain> texture, std::array<Wrap, 2> wrap, Filter magnify,
             Filter minify, MipFilter mip, std::array<float, 6> to_picture, bool masked, float cutoff,
             bool two_sided, bool linear_colors) {
            Surface surface;
            surface.sampler = {{wrap[0], wrap[1]}, magnify, minify, mip};
            std::copy(to_picture.begin(), to_picture.end(), surface.to_picture);
            surface.masked = masked, surface.cutoff = cutoff, surface.two_sided = two_sided;
            surface.linear_colors = linear_colors;
            if (texture) surface.texture = texture->texture(), s.textures.push_back(std::move(texture));
            s.table.push_back(surface);
          },
          "texture"_a.none(), "wrap"_a, "magnify"_a, "minify"_a, "mip"_a, "to_picture"_a, "masked"_a,
          "cutoff"_a, "two_sided"_a, "linear_colors"_a);
}
