// Sparse convolution as an implicit matrix product over the neighbour table (neighbours.cuh): a block takes a
// tile of output rows and of output channels, walks over the kernel offsets that its rows have, gathers their
// input rows into shared memory and multiplies them with the offset's weight. Sums stay in registers, so
// every output is written once, in one order: results are the same in every run. After the sorted implicit
// GEMM of spconv 2 (Yan) and TorchSparse++ (Tang et al. 2023).
#pragma once

#include <cuda/rulebook.h>
#include <cuda/warp_product.cuh>

namespace spconv_lite::cuda {

inline constexpr int conv_threads = 128;
inline constexpr int conv_warps = conv_threads / 32;

// Rows of one convolution in the order of their masks.
struct Rows {
  const int32_t* table;   // (K, rows)
  const int32_t* order;   // (rows,)
  const uint32_t* masks;  // (mask_tiles(rows), mask_words(K))
  int64_t rows;
  int volume;

  // Whether any of the `tiles` tiles from `first` has the offset.
  DEV_FN bool any(int64_t first, int tiles, int k) const {
    const int64_t all = (rows + tile_rows - 1) / tile_rows, words = mask_words(volume);
    uint32_t found = 0;
    for (int64_t tile = first; tile < first + tiles && tile < all; ++tile)
      found |= masks[tile * words + k / 32];
    return found >> (k % 32) & 1u;
  }
};

// V neighbouring elements, moved by one instruction.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

template <class T, int V>
DEV_FN Pack<T, V> zero_pack() {
  Pack<T, V> pack;
  DEV_UNROLL
  for (int v = 0; v < V; ++v) pack.at[v] = from_sum<T>(0.0f);
  return pack;
}

template <class T, int V>
DEV_FN Pack<T, V> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, V>*>(p);
}

// Where load number `load` of a step goes in a tile that is stored across: V columns from *column of row
// *row, of `depth` rows. Two neighbouring lanes share a row, which is one sector of memory, and of the lanes
// that store into one bank there are two and not eight. Single elements go along the row.
template <int V, int depth, int columns>
DEV_FN void place_across(int load, int* row, int* column) {
  if constexpr (V == 1) {
    *row = load / columns;
    *column = load % columns;
  } else {
    *row = load / 2 % depth;
    *column = (load % 2 + load / (2 * depth) * 2) * V;
  }
}

// ---- forward, and backward for the input ----

// y[i] = sum over k of x[table[k, i]] @ weight of k, for the channels of each group.
//   forward:  weight[(group, n), k, c] with n an output channel of y and c an input channel of x
//   backward: weight[(group, c), k, n]: the same array, seen from the other side
template <class T>
struct Product {
  const T* x;       // (rows read, groups * in)
  const T* weight;  // see above
  const T* bias;    // (groups * out,) or null; added before relu
  T* y;             // (rows, groups * out)
  int in, out;      // channels of a group
  int groups;
  bool backward;  // which view of the weight
  bool mirror;    // the table belongs to offset K - 1 - k: the transposed map of an odd submanifold
  bool relu;
};

// One warp a 32 x 32 tile, `row_warps` of them down the rows and the rest across the channels. V elements are
// loaded at once; `in` and, backward, `out` are multiples of V.
template <class Math, int V, int row_warps>
class ConvTile {
  using T = typename Math::Value;
  using Sum = typename Math::Sum;
  static constexpr int column_warps = conv_warps / row_warps;
  static constexpr int depth = Math::depth, pitch = depth + Math::pad;
  static constexpr int x_loads = row_warps * warp_tile * depth / (conv_threads * V);
  static constexpr int w_loads = column_warps * warp_tile * depth / (conv_threads * V);
  static_assert(x_loads >= 1 && w_loads >= 1, "every thread loads");

 public:
  static constexpr int block_rows = row_warps * warp_tile;
  static constexpr int block_columns = column_warps * warp_tile;

  DEV_FN ConvTile(const Rows& rows, const Product<T>& p, T* x_tile, T* w_tile)
      : rows_(rows), p_(p), x_tile_(x_tile), w_tile_(w_tile) {
    first_row_ = static_cast<int64_t>(blockIdx.x) * block_rows;
    first_column_ = static_cast<int>(blockIdx.y) * block_columns;
    group_ = static_cast<int>(blockIdx.z);
    DEV_UNROLL
    for (int j = 0; j < x_loads; ++j) {
      const int64_t place = first_row_ + row_of(j);
      row_[j] = place < rows.rows ? rows.order[place] : -1;
    }
  }

  DEV_FN void run() {
    typename Math::template Product<pitch> sum;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const T* const mine = x_tile_ + warp % row_warps * warp_tile * pitch;
    const T* const columns = w_tile_ + warp / row_warps * warp_tile * pitch;
    int k = next_offset(-1), c = 0;
    if (k < rows_.volume) fetch(k, c);
    while (k < rows_.volume) {
      keep();
      __syncthreads();
      c += depth;
      if (c >= p_.in) {
        k = next_offset(k);
        c = 0;
      }
      if (k < rows_.volume) fetch(k, c);  // on its way while the warps multiply
      sum.add(mine, columns);
      __syncthreads();
    }
    // The tiles are no longer read: their memory takes the sums.
    Sum* const stage = reinterpret_cast<Sum*>(x_tile_) + warp * warp_tile * stage_pitch;
    sum.store(stage);
    __syncwarp();
    write(stage, first_row_ + warp % row_warps * warp_tile, first_column_ + warp / row_warps * warp_tile);
  }

  static constexpr int tile_bytes = (block_rows + block_columns) * pitch * static_cast<int>(sizeof(T));
  static constexpr int stage_bytes = conv_warps * warp_tile * stage_pitch * static_cast<int>(sizeof(Sum));
  static constexpr int shared_bytes = tile_bytes > stage_bytes ? tile_bytes : stage_bytes;

 private:
  DEV_FN static int row_of(int j) { return (j * conv_threads + static_cast<int>(threadIdx.x)) / (depth / V); }
  DEV_FN static int depth_of(int j) {
    return (j * conv_threads + static_cast<int>(threadIdx.x)) % (depth / V) * V;
  }

  // The next offset after k that a row of this block has; the volume when there is none.
  DEV_FN int next_offset(int k) const {
    for (++k; k < rows_.volume; ++k)
      if (rows_.any(first_row_ / tile_rows, (block_rows + tile_rows - 1) / tile_rows, k)) break;
    return k;
  }

  // Loads this thread's part of the next step into registers.
  DEV_FN void fetch(int k, int c) {
    DEV_UNROLL
    for (int j = 0; j < x_loads; ++j) {
      const int channel = c + depth_of(j);
      const int32_t source = row_[j] >= 0 && channel < p_.in ? rows_.table[k * rows_.rows + row_[j]] : -1;
      const int64_t at = static_cast<int64_t>(source) * (p_.groups * p_.in) + group_ * p_.in + channel;
      x_[j] = source >= 0 ? load_pack<T, V>(p_.x + at) : zero_pack<T, V>();
    }
    const int64_t offset = p_.mirror ? rows_.volume - 1 - k : k;
    DEV_UNROLL
    for (int j = 0; j < w_loads; ++j) {
      int n, channel;
      weight_place(j, &n, &channel);
      n += first_column_;
      channel += c;
      const int64_t row = p_.backward ? static_cast<int64_t>(group_) * p_.in + channel
                                      : static_cast<int64_t>(group_) * p_.out + n;
      const int64_t at = p_.backward ? (row * rows_.volume + offset) * p_.out + n
                                     : (row * rows_.volume + offset) * p_.in + channel;
      w_[j] = n < p_.out && channel < p_.in ? load_pack<T, V>(p_.weight + at) : zero_pack<T, V>();
    }
  }

  // Which element of the weight tile load j begins with: V run along c forward, along n backward.
  DEV_FN void weight_place(int j, int* n, int* channel) const {
    if (p_.backward) {
      const int load = j * conv_threads + static_cast<int>(threadIdx.x);
      place_across<V, depth, block_columns>(load, channel, n);
    } else {
      *n = row_of(j);
      *channel = depth_of(j);
    }
  }

  DEV_FN void keep() const {
    DEV_UNROLL
    for (int j = 0; j < x_loads * V; ++j)
      x_tile_[row_of(j / V) * pitch + depth_of(j / V) + j % V] = x_[j / V].at[j % V];
    DEV_UNROLL
    for (int j = 0; j < w_loads; ++j) {
      int n, channel;
      weight_place(j, &n, &channel);
      DEV_UNROLL
      for (int v = 0; v < V; ++v)
        w_tile_[p_.backward ? (n + v) * pitch + channel : n * pitch + channel + v] = w_[j].at[v];
    }
  }

  DEV_FN void write(const Sum* stage, int64_t first_row, int first_column) const {
    const int column = first_column + dev::lane();
    if (column >= p_.out) return;
    const int channel = group_ * p_.out + column;
    const Sum bias = p_.bias ? to_sum<Sum>(p_.bias[channel]) : Sum(0);
    for (int r = 0; r < warp_tile && first_row + r < rows_.rows; ++r) {
      Sum value = stage[r * stage_pitch + dev::lane()] + bias;
      if (p_.relu && value < Sum(0)) value = Sum(0);
      const int64_t row = rows_.order[first_row + r];
      p_.y[row * (p_.groups * p_.out) + channel] = from_sum<T>(value);
    }
  }

  const Rows& rows_;
  const Product<T>& p_;
  T *x_tile_, *w_tile_;
  int64_t first_row_;
  int first_column_, group_;
  int32_t row_[x_loads];
  Pack<T, V> x_[x_loads], w_[w_loads];
};

template <class Math, int V, int row_warps>
DEV_KERNEL(conv_threads)
implicit_gemm(Rows rows, Product<typename Math::Value> p) {
  using Tile = ConvTile<Math, V, row_warps>;
  using T = typename Math::Value;
  DEV_SHARED(unsigned char, memory, Tile::shared_bytes);
  T* const x_tile = reinterpret_cast<T*>(memory);
  Tile(rows, p, x_tile, x_tile + Tile::block_rows * (Math::depth + Math::pad)).run();
}

// ---- backward for the weight ----

// partial[split, (group, n), k, c] = sum over this split's rows i of gradient[i, (group, n)] * x[table[k, i],
// (group, c)]. The splits are added in order afterwards: no atomics, the same bits in every run.
template <class T, class Sum>
struct Correlation {
  const T* x;         // (rows read, groups * in)
  const T* gradient;  // (rows, groups * out)
  Sum* partial;       // (splits, groups * out, K, in)
  int in, out, groups;
  int64_t tiles_per_split;
};

// 64 x 64 channels of one offset and split a block: two warps down the output channels, two across the input
// channels; the depth of the product runs over rows.
template <class Math, int V>
class CorrelationTile {
  using T = typename Math::Value;
  using Sum = typename Math::Sum;
  static constexpr int depth = Math::depth, pitch = depth + Math::pad;
  static constexpr int side = 2 * warp_tile;
  static constexpr int loads = side * depth / (conv_threads * V);
  static_assert(loads >= 1 && tile_rows % depth == 0, "whole steps");

 public:
  DEV_FN CorrelationTile(const Rows& rows, const Correlation<T, Sum>& p, T* gradient_tile, T* x_tile)
      : rows_(rows), p_(p), gradient_tile_(gradient_tile), x_tile_(x_tile) {
    const int across = (p.in + side - 1) / side, down = (p.out + side - 1) / side;
    const int block = static_cast<int>(blockIdx.x);
    first_in_ = block % across * side;
    first_out_ = block / across % down * side;
    group_ = block / across / down;
  }

  DEV_FN void run() {
    typename Math::template Product<pitch> sum;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const T* const mine = gradient_tile_ + warp % 2 * warp_tile * pitch;
    const T* const columns = x_tile_ + warp / 2 * warp_tile * pitch;
    const int k = static_cast<int>(blockIdx.y);
    const int64_t first = static_cast<int64_t>(blockIdx.z) * p_.tiles_per_split;
    for (int64_t tile = first; tile < first + p_.tiles_per_split && tile * tile_rows < rows_.rows; ++tile) {
      if (!rows_.any(tile, 1, k)) continue;
      for (int64_t place = tile * tile_rows; place < (tile + 1) * tile_rows; place += depth) {
        load(k, place);
        __syncthreads();
        sum.add(mine, columns);
        __syncthreads();
      }
    }
    Sum* const stage = reinterpret_cast<Sum*>(gradient_tile_) + warp * warp_tile * stage_pitch;
    sum.store(stage);
    __syncwarp();
    write(stage, k, first_out_ + warp % 2 * warp_tile, first_in_ + warp / 2 * warp_tile);
  }

  static constexpr int tile_bytes = 2 * side * pitch * static_cast<int>(sizeof(T));
  static constexpr int stage_bytes = conv_warps * warp_tile * stage_pitch * static_cast<int>(sizeof(Sum));
  static constexpr int shared_bytes = tile_bytes > stage_bytes ? tile_bytes : stage_bytes;

 private:
  // Both tiles are stored with the rows as their depth: channel by channel.
  DEV_FN void load(int k, int64_t place) const {
    DEV_UNROLL_BY(4)
    for (int j = 0; j < loads; ++j) {
      const int load = j * conv_threads + static_cast<int>(threadIdx.x);
      int d, channel;
      place_across<V, depth, side>(load, &d, &channel);
      const int64_t row = place + d < rows_.rows ? rows_.order[place + d] : -1;
      const int64_t source = row >= 0 ? rows_.table[k * rows_.rows + row] : -1;
      const int out = first_out_ + channel, in = first_in_ + channel;
      const int64_t gradient_at = row * (p_.groups * p_.out) + group_ * p_.out + out;
      const int64_t x_at = source * (p_.groups * p_.in) + group_ * p_.in + in;
      const Pack<T, V> gradient =
          source >= 0 && out < p_.out ? load_pack<T, V>(p_.gradient + gradient_at) : zero_pack<T, V>();
      const Pack<T, V> x = source >= 0 && in < p_.in ? load_pack<T, V>(p_.x + x_at) : zero_pack<T, V>();
      DEV_UNROLL
      for (int v = 0; v < V; ++v) {
        gradient_tile_[(channel + v) * pitch + d] = gradient.at[v];
        x_tile_[(channel + v) * pitch + d] = x.at[v];
      }
    }
  }

  DEV_FN void write(const Sum* stage, int k, int first_out, int first_in) const {
    const int in = first_in + dev::lane();
    if (in >= p_.in) return;
    const int64_t outs = static_cast<int64_t>(p_.groups) * p_.out;
    for (int r = 0; r < warp_tile && first_out + r < p_.out; ++r) {
      const int64_t out = static_cast<int64_t>(group_) * p_.out + first_out + r;
      const int64_t at = ((blockIdx.z * outs + out) * rows_.volume + k) * p_.in + in;
      p_.partial[at] = stage[r * stage_pitch + dev::lane()];
    }
  }

  const Rows& rows_;
  const Correlation<T, Sum>& p_;
  T *gradient_tile_, *x_tile_;
  int first_in_, first_out_, group_;
};

template <class Math, int V>
DEV_KERNEL(conv_threads)
correlate_rows(Rows rows, Correlation<typename Math::Value, typename Math::Sum> p) {
  using Tile = CorrelationTile<Math, V>;
  using T = typename Math::Value;
  DEV_SHARED(unsigned char, memory, Tile::shared_bytes);
  T* const gradient_tile = reinterpret_cast<T*>(memory);
  Tile(rows, p, gradient_tile, gradient_tile + 2 * warp_tile * (Math::depth + Math::pad)).run();
}

// total[i] = the sum of partial[s, i] over the splits, in order.
template <class T, class Sum>
DEV_KERNEL(conv_threads)
add_splits(const Sum* partial, int64_t size, int splits, T* total) {
  for (int64_t i = dev::thread_index(); i < size; i += dev::thread_count()) {
    Sum sum = 0;
    for (int s = 0; s < splits; ++s) sum += partial[s * size + i];
    total[i] = from_sum<T>(sum);
  }
}

}  // namespace spconv_lite::cuda
