// Pixels by their material, on a device: counted, scanned, scattered, so that warps read one texture at a
// time. Within a bin they lie in any order.
//
//   count_bins      which bin each pixel is of, and how many there are of each
//   scan_bins       where each bin begins; one warp
//   scatter_pixels  the list
#pragma once

#include "cull/device_append.cuh"
#include "resolve/resolve_pass.cuh"

namespace nanite_cull::cuda {

DEV_FN uint32_t bin_of(const ResolvePass& pass, uint32_t id) {
  const Visible v = pass.visible[id >> id_triangle_bits];
  const uint32_t local = id & ((1u << id_triangle_bits) - 1);
  const AssetArrays& asset = pass.scene.assets[pass.scene.instances[v.instance].asset];
  const Cluster& cluster = asset.clusters[v.cluster];
  const uint8_t corner = asset.triangles[3 * (int64_t(cluster.triangle_begin) + local)];
  const uint32_t material = asset.materials ? asset.materials[asset.vertex(cluster, corner)] : 0;
  return material_bin(asset.look(material), asset.first_bin, material);
}

// `bins`: (height, width), `none` where nothing was drawn. `counts`: zero before, of each bin.
DEV_KERNEL(resolve_threads) count_bins(ResolvePass pass, uint32_t* bins, uint32_t* counts) {
  const int64_t pixels = int64_t(pass.image.width) * pass.image.height;
  for (int64_t first = first_of_warp(32); first < pixels; first += stride_of_warps(32)) {
    const int64_t i = first + dev::lane();
    const Count word = i < pixels ? pass.pixels[i] : 0;
    const uint32_t bin = word == 0 ? none : bin_of(pass, static_cast<uint32_t>(word & 0xffffffffu));
    if (i < pixels) bins[i] = bin;
    const unsigned same = __match_any_sync(dev::all_lanes, bin);
    if (bin != none && dev::lane() == dev::lowest_bit(same))
      atomicAdd(counts + bin, static_cast<uint32_t>(dev::popcount(same)));
  }
}

// `counts` become the bins' first places; how many pixels there are in all goes behind them.
DEV_KERNEL(32) scan_bins(uint32_t* counts, uint32_t bins) {
  uint32_t before = 0;
  for (uint32_t first = 0; first < bins; first += 32) {
    const uint32_t at = first + static_cast<uint32_t>(dev::lane());
    const uint32_t count = at < bins ? counts[at] : 0;
    uint32_t sum = count;
    for (unsigned step = 1; step < 32; step *= 2) {
      const uint32_t left = __shfl_up_sync(dev::all_lanes, sum, step);
      if (static_cast<unsigned>(dev::lane()) >= step) sum += left;
    }
    if (at < bins) counts[at] = before + sum - count;
    before += __shfl_sync(dev::all_lanes, sum, 31);
  }
  if (dev::lane() == 0) counts[bins] = before;
}

// `places`: of scan_bins(); moves each bin's to its end. `list`: numbers of pixels.
DEV_KERNEL(resolve_threads)
scatter_pixels(ImageSize image, const uint32_t* bins, uint32_t* places, uint32_t* list) {
  const int64_t pixels = int64_t(image.width) * image.height;
  for (int64_t first = first_of_warp(32); first < pixels; first += stride_of_warps(32)) {
    const int64_t i = first + dev::lane();
    const uint32_t bin = i < pixels ? bins[i] : none;
    const unsigned same = __match_any_sync(dev::all_lanes, bin);
    const int leader = dev::lowest_bit(same);
    uint32_t base = 0;
    if (bin != none && dev::lane() == leader)
      base = atomicAdd(places + bin, static_cast<uint32_t>(dev::popcount(same)));
    base = __shfl_sync(dev::all_lanes, base, leader);
    if (bin == none) continue;
    const unsigned below = same & ((1u << dev::lane()) - 1);
    list[base + static_cast<uint32_t>(dev::popcount(below))] = static_cast<uint32_t>(i);
  }
}

}  // namespace nanite_cull::cuda
