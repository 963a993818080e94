#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include <cpu/rulebook.h>
#include <cpu/sites.h>
#include <native/check.h>
#include <native/parallel.h>

namespace spconv_lite {

namespace {

constexpr int64_t rows_per_chunk = 2048;
constexpr int64_t blocks_per_chunk = 16;
constexpr int64_t most_rows = std::numeric_limits<int32_t>::max();

std::string tuple_text(const int64_t* values, int count) {
  std::string text = "(";
  for (int i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(values[i]);
  return text + (count == 1 ? ",)" : ")");
}

std::string site_text(const int32_t* indices, int64_t row, int ndim) {
  std::vector<int64_t> at(indices + row * (ndim + 1), indices + (row + 1) * (ndim + 1));
  return tuple_text(at.data(), ndim + 1);
}

[[noreturn]] void throw_outside(const int32_t* indices, int64_t row, const Geometry& g) {
  throw native::ValueError(
      "get_indice_pairs: indices row " + std::to_string(row) + " is " + site_text(indices, row, g.ndim) +
      ", outside batch_size " + std::to_string(g.batch_size) + " and spatial_shape " +
      tuple_text(g.in_shape + max_axes - g.ndim, g.ndim) + "; drop such points or enlarge the grid");
}

[[noreturn]] void throw_duplicate(const int32_t* indices, int64_t row, const Geometry& g) {
  const size_t bytes = sizeof(int32_t) * (g.ndim + 1);
  int64_t earlier = 0;
  while (std::memcmp(indices + earlier * (g.ndim + 1), indices + row * (g.ndim + 1), bytes) != 0) ++earlier;
  throw native::ValueError("get_indice_pairs: indices rows " + std::to_string(earlier) + " and " +
                           std::to_string(row) + " are both " + site_text(indices, row, g.ndim) +
                           "; a site may occur once: merge duplicates with spconv_lite.coalesce");
}

void check_rows(int64_t rows, const char* what) {
  if (rows > most_rows)
    throw native::ValueError("get_indice_pairs: " + std::to_string(rows) + " " + what +
                             " sites are more than 2^31 - 1; split the batch");
}

// Checks and inserts every row; true if the rows already are in row-major order.
bool insert_rows(const int32_t* indices, int64_t rows, const Geometry& g, SiteSet& sites) {
  constexpr int64_t batch = 32;  // words are asked for ahead of their use
  Place places[batch];
  bool sorted = true;
  Place previous{-1, 0};
  for (int64_t row = 0; row < rows; row += batch) {
    const int64_t count = std::min(batch, rows - row);
    for (int64_t i = 0; i < count; ++i) {
      const Site site = read_site(indices, row + i, g.ndim);
      if (!inside(site, g.batch_size, g.in_shape)) throw_outside(indices, row + i, g);
      places[i] = sites.place(site);
      sites.prefetch(places[i]);
      sorted &= previous < places[i];
      previous = places[i];
    }
    for (int64_t i = 0; i < count; ++i)
      if (!sites.insert(places[i])) throw_duplicate(indices, row + i, g);
  }
  return sorted;
}

// The coordinates on one axis that one input coordinate reaches.
struct Reach {
  std::vector<int64_t> at;
  int64_t count = 0;

  void find(const Geometry& g, bool transposed, int axis, int64_t in) {
    at.resize(static_cast<size_t>(g.kernel[axis]));
    count = 0;
    for (int64_t k = 0; k < g.kernel[axis]; ++k) {
      const int64_t out = target_coordinate(g, transposed, axis, in, k);
      if (out >= 0) at[static_cast<size_t>(count++)] = out;
    }
  }
};

// Inserts every output site that some input site reaches.
void insert_targets(const int32_t* indices, int64_t rows, const Geometry& g, bool transposed, SiteSet& out) {
  Reach reach[max_axes];
  int64_t previous[max_axes] = {-1, -1, -1, -1};
  for (int64_t row = 0; row < rows; ++row) {
    const Site site = read_site(indices, row, g.ndim);
    for (int axis = 0; axis < max_axes; ++axis)
      if (site.at[axis] != previous[axis])
        reach[axis].find(g, transposed, axis, previous[axis] = site.at[axis]);
    Site target{site.batch, {0, 0, 0, 0}};
    for (int64_t i = 0; i < reach[0].count; ++i) {
      target.at[0] = reach[0].at[i];
      for (int64_t j = 0; j < reach[1].count; ++j) {
        target.at[1] = reach[1].at[j];
        for (int64_t k = 0; k < reach[2].count; ++k) {
          target.at[2] = reach[2].at[k];
          for (int64_t l = 0; l < reach[3].count; ++l) {
            target.at[3] = reach[3].at[l];
            out.insert(out.place(target));
          }
        }
      }
    }
  }
}

// Cuts the kernel into segments and groups, see pairs.h.
std::vector<Group> make_groups(const Geometry& g, const SiteTable& table) {
  const int64_t volume = g.volume(), step = g.dilation[3];
  const int64_t window = step >= 64 ? 1 : 63 / step + 1;
  std::vector<Group> groups;
  int64_t bits = group_bits;
  for (int64_t k = 0; k < volume;) {
    int64_t offset[max_axes];
    kernel_offset(g, k, offset);
    const int64_t taps = std::min(g.kernel[3] - offset[3], window);
    if (bits + taps > group_bits) {
      groups.push_back(Group{});
      groups.back().first_offset = k;
      groups.back().whole_lines = true;
      bits = 0;
    }
    Group& group = groups.back();
    Segment& segment = group.segment[group.segments];
    for (int axis = 0; axis < max_axes; ++axis) {
      segment.at[axis] = offset[axis] * g.dilation[axis];
      const int64_t last = segment.at[axis] + (axis == max_axes - 1 ? (taps - 1) * step : 0);
      group.reach[axis] = std::max(group.reach[axis], last);
    }
    group.whole_lines &= segment.at[max_axes - 1] == 0;
    segment.words = (segment.at[0] * table.shape[1] + segment.at[1]) * table.shape[2] + segment.at[2];
    segment.words *= table.words_per_line;
    segment.taps = taps;
    for (int64_t tap = 0; tap < taps; ++tap, ++bits, ++k) {
      group.segment_of_bit[bits] = static_cast<uint8_t>(group.segments);
      group.cell_of_bit[bits] = tap * step;
    }
    ++group.segments;
  }
  return groups;
}

// The convolution whose output sites are our input sites: what a transposed convolution reads.
Geometry swapped(const Geometry& g) {
  Geometry other = g;
  std::copy(g.out_shape, g.out_shape + max_axes, other.in_shape);
  std::copy(g.in_shape, g.in_shape + max_axes, other.out_shape);
  return other;
}

}  // namespace

// The pairs of one block, sorted by offset while its rows are added in order.
class BlockPairs {
 public:
  explicit BlockPairs(int64_t volume)
      : in_row_(static_cast<size_t>(volume * block_rows)), out_row_(in_row_.size()), count_(volume, 0) {}

  void clear() { std::fill(count_.begin(), count_.end(), 0); }
  // The pairs of output row `local` of the block for the offsets first + (bits of hits).
  const int32_t* add(int64_t first, uint64_t hits, const int32_t* source, int64_t local) {
    int32_t* const in_row = in_row_.data() + first * block_rows;
    uint8_t* const out_row = out_row_.data() + first * block_rows;
    int32_t* const count = count_.data() + first;
    for (; hits != 0; hits &= hits - 1) {
      const int64_t k = dev::lowest_bit(hits), at = k * block_rows + count[k]++;
      in_row[at] = *source++;
      out_row[at] = static_cast<uint8_t>(local);
    }
    return source;
  }
  void write(int64_t start, int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const {
    for (size_t k = 0; k < count_.size(); ++k) {
      block_offset[k] = start;
      std::copy_n(&in_row_[k * block_rows], count_[k], pair_in + start);
      std::copy_n(&out_row_[k * block_rows], count_[k], pair_out + start);
      start += count_[k];
    }
  }

 private:
  std::vector<int32_t> in_row_;
  std::vector<uint8_t> out_row_;
  std::vector<int32_t> count_;
};

int64_t checked_cells(int64_t batch_size, const int64_t* shape, const char* what) {
  int64_t cells = batch_size;
  bool fits = true;
  for (int axis = 0; axis < max_axes; ++axis)
    fits = fits && !__builtin_mul_overflow(cells, shape[axis], &cells);
  if (!fits)
    throw native::ValueError(std::string("get_indice_pairs: ") + what + " of batch_size " +
                             std::to_string(batch_size) + " and shape " + tuple_text(shape, max_axes) +
                             " has more than 2^63 - 1 cells; use larger voxels");
  return cells;
}

Rulebook::Rulebook(const int32_t* indices, int64_t rows, const Geometry& geometry, Kind kind, int threads)
    : geometry_(geometry),
      threads_(threads > 0 ? threads : native::max_threads()),
      in_rows_(rows),
      in_indices_(indices) {
  const Geometry& g = geometry_;
  check_rows(rows, "input");
  checked_cells(g.batch_size, g.in_shape, "the grid");
  checked_cells(g.batch_size, g.out_shape, "the output grid");
  SiteSet in(g.batch_size, g.in_shape, rows);
  const bool sorted = insert_rows(indices, rows, g, in);
  if (kind != Kind::transposed) {
    in.rank(threads_, false);
    if (!sorted || in.hashed()) in.number_rows(g, indices, rows, threads_);
  }
  if (kind == Kind::submanifold) {
    find_pairs(in, g, indices, rows, in.row_of_rank() != nullptr);
    return;
  }
  SiteSet out(g.batch_size, g.out_shape, rows);
  insert_targets(indices, rows, g, kind == Kind::transposed, out);
  const int64_t out_rows = out.rank(threads_, true);
  check_rows(out_rows, "output");
  out_indices_.resize(static_cast<size_t>(out_rows * (g.ndim + 1)));
  out.write_sites(out_indices_.data(), g.ndim, threads_);
  if (kind == Kind::convolution)
    find_pairs(in, g, out_indices_.data(), out_rows, false);
  else
    read_through_output(indices, out);
}

// Finds the sources of all rows, in the order of rank if that is not the order of rows.
void Rulebook::find_pairs(const SiteSet& sites, const Geometry& g, const int32_t* out_indices, int64_t rows,
                          bool by_rank) {
  out_rows_ = rows;
  blocks_ = (rows + block_rows - 1) / block_rows;
  groups_ = make_groups(g, sites.table());
  const int64_t volume = g.volume(), group_count = static_cast<int64_t>(groups_.size());
  if (by_rank) position_of_row_.assign(sites.rank_of_row(), sites.rank_of_row() + rows);
  sources_.list.resize(static_cast<size_t>((rows + rows_per_chunk - 1) / rows_per_chunk));
  sources_.entries = Scratch<uint64_t>(rows * entry_words(group_count));
  native::parallel_for(rows, rows_per_chunk, threads_, [&](int64_t begin, int64_t end) {
    const Scratch<int32_t> list(volume * (end - begin));
    const int64_t count = NATIVE_CALL_ISA(find_sources)(
        sites.table(), g, groups_.data(), group_count, out_indices, by_rank ? sites.row_of_rank() : nullptr,
        begin, end, list.get(), sources_.entries.get() + begin * entry_words(group_count));
    sources_.list[static_cast<size_t>(begin / rows_per_chunk)].assign(list.get(), list.get() + count);
  });
  block_start_.assign(static_cast<size_t>(blocks_ + 1), 0);
  native::parallel_for(rows, block_rows, threads_, [&](int64_t begin, int64_t end) {
    int64_t count = 0;
    for (int64_t row = begin; row < end; ++row) count += source_count(row);
    block_start_[static_cast<size_t>(begin / block_rows + 1)] = count;
  });
  for (int64_t block = 0; block < blocks_; ++block) block_start_[block + 1] += block_start_[block];
  pairs_ = block_start_.back();
}

// A transposed convolution reads through the map of the convolution from its output to its input.
void Rulebook::read_through_output(const int32_t* indices, const SiteSet& out) {
  const Geometry& g = geometry_;
  const int64_t out_rows = static_cast<int64_t>(out_indices_.size()) / (g.ndim + 1), volume = g.volume();
  find_pairs(out, swapped(g), indices, in_rows_, false);
  std::vector<int32_t> pair_in(static_cast<size_t>(pairs_));
  std::vector<uint8_t> pair_out(static_cast<size_t>(pairs_));
  std::vector<int64_t> block_offset(static_cast<size_t>(block_offsets()));
  write_compact(pair_in.data(), pair_out.data(), block_offset.data());
  sources_ = Sources{};
  out_rows_ = out_rows;
  blocks_ = (out_rows + block_rows - 1) / block_rows;
  pair_in_.resize(pair_in.size());
  pair_out_.resize(pair_in.size());
  block_offset_.resize(static_cast<size_t>(block_offsets()));
  transpose_rulebook(pair_in.data(), pair_out.data(), block_offset.data(), pairs_, out_rows_, in_rows_,
                     volume, threads_, pair_in_.data(), pair_out_.data(), block_offset_.data());
}

int64_t Rulebook::position(int64_t row) const {
  return position_of_row_.empty() ? row : position_of_row_[static_cast<size_t>(row)];
}

const uint64_t* Rulebook::entry(int64_t position) const {
  return sources_.entries.get() + position * entry_words(static_cast<int64_t>(groups_.size()));
}

int64_t Rulebook::source_count(int64_t row) const {
  const int64_t at = position(row), next = at + 1;
  const bool last = next == out_rows_ || next % rows_per_chunk == 0;
  const uint64_t end = last ? sources_.list[static_cast<size_t>(at / rows_per_chunk)].size() : *entry(next);
  return static_cast<int64_t>(end - *entry(at));
}

// Rows in their own order visit the entries, which are in the order of rank, at random.
void Rulebook::prefetch(int64_t row) const {
  if (row + 16 < out_rows_) __builtin_prefetch(entry(position(row + 16)));
  if (row + 8 < out_rows_) {
    const int64_t at = position(row + 8);
    __builtin_prefetch(sources_.list[static_cast<size_t>(at / rows_per_chunk)].data() + *entry(at));
  }
}

void Rulebook::add_row(int64_t row, BlockPairs& pairs) const {
  const int64_t at = position(row);
  const uint64_t* from = entry(at);
  const int32_t* source = sources_.list[static_cast<size_t>(at / rows_per_chunk)].data() + *from++;
  for (const Group& group : groups_)
    source = pairs.add(group.first_offset, *from++, source, row % block_rows);
}

void Rulebook::write_out_indices(int32_t* out_indices) const {
  const int32_t* from = out_indices_.empty() ? in_indices_ : out_indices_.data();
  std::copy(from, from + out_rows_ * (geometry_.ndim + 1), out_indices);
}

void Rulebook::write_compact(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const {
  if (!block_offset_.empty()) {
    std::copy(pair_in_.begin(), pair_in_.end(), pair_in);
    std::copy(pair_out_.begin(), pair_out_.end(), pair_out);
    std::copy(block_offset_.begin(), block_offset_.end(), block_offset);
    return;
  }
  const int64_t volume = geometry_.volume();
  native::parallel_for(blocks_, blocks_per_chunk, threads_, [&](int64_t begin, int64_t end) {
    BlockPairs pairs(volume);
    for (int64_t block = begin; block < end; ++block) {
      pairs.clear();
      for (int64_t row = block * block_rows; row < std::min(out_rows_, (block + 1) * block_rows); ++row)
        prefetch(row), add_row(row, pairs);
      pairs.write(block_start_[block], pair_in, pair_out, block_offset + block * volume);
    }
  });
  block_offset[blocks_ * volume] = pairs_;
}

void Rulebook::write_padded(int32_t* indice_pairs, int32_t* indice_num) const {
  const int64_t volume = geometry_.volume();
  std::vector<int32_t> pair_in(static_cast<size_t>(pairs_));
  std::vector<uint8_t> pair_out(static_cast<size_t>(pairs_));
  std::vector<int64_t> block_offset(static_cast<size_t>(block_offsets()));
  write_compact(pair_in.data(), pair_out.data(), block_offset.data());
  native::parallel_for(volume, 1, threads_, [&](int64_t k, int64_t) {
    int32_t* in = indice_pairs + k * in_rows_;
    int32_t* out = indice_pairs + (volume + k) * in_rows_;
    int64_t count = 0;
    for (int64_t block = 0; block < blocks_; ++block)
      for (int64_t p = block_offset[block * volume + k]; p < block_offset[block * volume + k + 1];
           ++p, ++count) {
        in[count] = pair_in[p];
        out[count] = static_cast<int32_t>(block * block_rows) + pair_out[p];
      }
    std::fill(in + count, in + in_rows_, -1);
    std::fill(out + count, out + in_rows_, -1);
    indice_num[k] = static_cast<int32_t>(count);
  });
}

void transpose_rulebook(const int32_t* pair_in, const uint8_t* pair_out, const int64_t* block_offset,
                        int64_t pairs, int64_t in_rows, int64_t out_rows, int64_t volume, int threads,
                        int32_t* pair_in_t, uint8_t* pair_out_t, int64_t* block_offset_t) {
  const int64_t blocks = (out_rows + block_rows - 1) / block_rows;
  const int64_t blocks_t = (in_rows + block_rows - 1) / block_rows;
  if (block_offset[0] != 0 || block_offset[blocks * volume] != pairs)
    throw native::ValueError("transpose_rulebook: block_offset must start with 0 and end with the " +
                             std::to_string(pairs) + " pairs; it belongs to another rulebook");
  std::fill(block_offset_t, block_offset_t + blocks_t * volume + 1, 0);
  auto each_pair = [&](int64_t k, auto&& visit) {
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t p = block_offset[block * volume + k]; p < block_offset[block * volume + k + 1]; ++p)
        visit(pair_in[p], block * block_rows + pair_out[p]);
  };
  native::parallel_for(volume, 1, threads, [&](int64_t k, int64_t) {
    each_pair(k, [&](int64_t in, int64_t) {
      if (in < 0 || in >= in_rows)
        throw native::ValueError("transpose_rulebook: pair_in holds row " + std::to_string(in) +
                                 ", but the input has " + std::to_string(in_rows) + " rows");
      ++block_offset_t[(in / block_rows) * volume + k + 1];
    });
  });
  for (int64_t i = 0; i < blocks_t * volume; ++i) block_offset_t[i + 1] += block_offset_t[i];
  native::parallel_for(volume, 1, threads, [&](int64_t k, int64_t) {
    std::vector<int64_t> next(static_cast<size_t>(blocks_t));
    for (int64_t block = 0; block < blocks_t; ++block) next[block] = block_offset_t[block * volume + k];
    each_pair(k, [&](int64_t in, int64_t out) {
      const int64_t at = next[in / block_rows]++;
      pair_in_t[at] = static_cast<int32_t>(out);
      pair_out_t[at] = static_cast<uint8_t>(in % block_rows);
    });
  });
}

}  // namespace spconv_lite
