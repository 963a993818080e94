#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include <cpu/rulebook.h>
#include <cpu/sites.h>
#include <cpu/targets.h>
#include <native/check.h>
#include <native/parallel.h>

namespace spconv_lite {

namespace {

constexpr int64_t rows_per_chunk = 2048;
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

[[noreturn]] void throw_duplicate(const int32_t* indices, int64_t row, const Geometry& g) {
  const size_t bytes = sizeof(int32_t) * (g.ndim + 1);
  int64_t earlier = 0;
  while (std::memcmp(indices + earlier * (g.ndim + 1), indices + row * (g.ndim + 1), bytes) != 0) ++earlier;
  throw native::ValueError("get_indice_pairs: indices rows " + std::to_string(earlier) + " and " +
                           std::to_string(row) + " are both " + site_text(indices, row, g.ndim) +
                           "; a site may occur once: merge duplicates with spconv_lite.coalesce");
}

// Of a row outside the grid, or at the site of an earlier row.
[[noreturn]] void throw_bad_row(const int32_t* indices, int64_t row, const Geometry& g) {
  if (inside(read_site(indices, row, g.ndim), g.batch_size, g.in_shape)) throw_duplicate(indices, row, g);
  throw native::ValueError(
      "get_indice_pairs: indices row " + std::to_string(row) + " is " + site_text(indices, row, g.ndim) +
      ", outside batch_size " + std::to_string(g.batch_size) + " and spatial_shape " +
      tuple_text(g.in_shape + max_axes - g.ndim, g.ndim) + "; drop such points or enlarge the grid");
}

void check_rows(int64_t rows, const char* what) {
  if (rows > most_rows)
    throw native::ValueError("get_indice_pairs: " + std::to_string(rows) + " " + what +
                             " sites are more than 2^31 - 1; split the batch");
}

void check_volume(const Geometry& g) {
  int64_t volume = 1;
  for (int64_t length : g.kernel) {
    if (length > most_volume / volume)
      throw native::ValueError("get_indice_pairs: a kernel of " +
                               tuple_text(g.kernel + max_axes - g.ndim, g.ndim) +
                               " has more than 2^24 cells; use a smaller one");
    volume *= length;
  }
}

// The compact form has an end for each kernel offset of each block of rows.
void check_offsets(const Geometry& g, int64_t rows) {
  constexpr int64_t most = int64_t{1} << 27;  // 1 GiB
  if ((rows + block_rows - 1) / block_rows > most / g.volume())
    throw native::ValueError("get_indice_pairs: " + std::to_string(rows) + " output sites and a kernel of " +
                             tuple_text(g.kernel + max_axes - g.ndim, g.ndim) +
                             " need a rulebook of more than 1 GiB; use a smaller kernel or split the batch");
}

}  // namespace

// A submanifold's kernel: the x lines, and the segments of each of them.
struct Rulebook::Lines {
  static constexpr int64_t beyond = std::numeric_limits<int64_t>::min();
  std::vector<int64_t> words;  // Segment::words, or `beyond` where no cell of the grid reaches another
  Reach x;
  std::vector<Segment> segments;  // of the offsets x.first to x.last; words to be filled in

  Lines(const Geometry& g, const SiteTable& table) : x(submanifold_reach(g, max_axes - 1)) {
    for (int64_t k = 0; k < g.volume(); k += g.kernel[max_axes - 1]) {
      int64_t offset[max_axes], line = 0;
      bool reached = true;
      kernel_offset(g, k, offset);
      for (int axis = 0; axis < max_axes - 1; ++axis) {
        const Reach reach = submanifold_reach(g, axis);
        reached = reached && offset[axis] >= reach.first && offset[axis] <= reach.last;
        if (!reached) continue;  // the number of a line beyond the grid may pass 64 bits
        line = line * table.length[axis] + offset[axis] * g.dilation[axis] - g.padding[axis];
      }
      words.push_back(reached ? line * table.words_per_line : beyond);
    }
    const int64_t dilation = g.dilation[max_axes - 1], most = dilation == 1 ? most_taps : 1;
    for (int64_t k = x.first; k <= x.last; k += segments.back().taps)
      segments.push_back(
          {0, k * dilation - g.padding[max_axes - 1], static_cast<int>(std::min(x.last - k + 1, most))});
  }
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
  check_volume(g);
  checked_cells(g.batch_size, g.in_shape, "the grid");
  checked_cells(g.batch_size, g.out_shape, "the output grid");
  const bool subm = kind == Kind::submanifold;
  SiteSet in(subm ? submanifold_frame(g) : bare_frame(g.batch_size, g.in_shape), rows);
  const int64_t bad = in.insert_rows(indices, rows, g, threads_);
  if (bad >= 0) throw_bad_row(indices, bad, g);
  if (subm) {
    out_rows_ = rows;
    check_offsets(g, rows);
    in.rank_rows();
    find_chunks(in);
  } else {
    find_through_targets(kind == Kind::transposed);
  }
}

void Rulebook::find_chunks(const SiteSet& in) {
  const Lines lines(geometry_, in.table());
  chunks_ = std::vector<Chunk>(static_cast<size_t>((in_rows_ + rows_per_chunk - 1) / rows_per_chunk));
  native::parallel_for(in_rows_, rows_per_chunk, threads_, [&](int64_t begin, int64_t end) {
    chunks_[static_cast<size_t>(begin / rows_per_chunk)] = find_chunk(in, lines, begin, end);
  });
  for (Chunk& chunk : chunks_) {
    chunk.start = pairs_;
    pairs_ += chunk.pairs;
  }
}

void Rulebook::Chunk::make_room(int64_t more) {
  if (pairs + more <= pair_out.capacity() && pairs + more <= pair_in.capacity()) return;
  const Scratch<int32_t> old_in = std::exchange(pair_in, Scratch<int32_t>(2 * pairs + more));
  const Scratch<uint8_t> old_out = std::exchange(pair_out, Scratch<uint8_t>(2 * pairs + more));
  std::copy_n(old_in.get(), pairs, pair_in.get());
  std::copy_n(old_out.get(), pairs, pair_out.get());
}

Rulebook::Chunk Rulebook::find_chunk(const SiteSet& in, const Lines& lines, int64_t begin,
                                     int64_t end) const {
  const int64_t volume = geometry_.volume(), blocks = (end - begin + block_rows - 1) / block_rows;
  Chunk chunk;
  chunk.block_end = Scratch<int64_t>(blocks * volume);
  for (int64_t i = 0; i < blocks; ++i) {
    Block block;
    const int64_t row = begin + i * block_rows;
    block.rows = std::min(block_rows, end - row);
    block.row_word = in.row_words() + row;
    block.row_bit = in.row_bits() + row;
    find_block(in.table(), lines, block, chunk, chunk.block_end.get() + i * volume);
  }
  return chunk;
}

// Appends the pairs of a block; ends[k] is where those of offset k end.
void Rulebook::find_block(const SiteTable& table, const Lines& lines, Block& block, Chunk& chunk,
                          int64_t* ends) const {
  const int64_t taps = geometry_.kernel[max_axes - 1];
  bool fresh = true;
  for (const int64_t words : lines.words) {
    std::fill_n(ends, words == Lines::beyond ? taps : lines.x.first, chunk.pairs);
    int64_t* next = ends + lines.x.first;
    ends += taps;
    if (words == Lines::beyond) continue;
    for (Segment segment : lines.segments) {
      segment.words = words;
      if (fresh || lines.segments.size() > 1) NATIVE_CALL_ISA(find_windows)(segment, &block);
      fresh = false;
      chunk.make_room(pairs_per_segment);
      chunk.pairs =
          NATIVE_CALL_ISA(find_pairs)(table, segment, block, chunk.pairs, chunk.pair_in.get() + chunk.pairs,
                                      chunk.pair_out.get() + chunk.pairs, next);
      next += segment.taps;
    }
    std::fill(next, ends, chunk.pairs);
  }
}

// Finds output sites and pairs from the input rows. To be sorted by output block and offset, by a counting
// sort: each part counts for itself, and knows then where its pairs go.
void Rulebook::find_through_targets(bool transposed) {
  const Geometry& g = geometry_;
  const Targets targets(in_indices_, in_rows_, g, transposed);
  SiteSet out(bare_frame(g.batch_size, g.out_shape), in_rows_);
  const int64_t count = std::clamp<int64_t>(in_rows_ / rows_per_chunk, 1, threads_);
  const int64_t rows = (in_rows_ + count - 1) / count;
  parts_ = std::vector<Part>(static_cast<size_t>(count));
  native::parallel_for(in_rows_, rows, threads_, [&](int64_t begin, int64_t end) {
    Part& part = parts_[static_cast<size_t>(begin / rows)];
    part.pairs = targets.count(begin, end);
    part.word = Scratch<int64_t>(part.pairs);
    part.tap = Scratch<int32_t>(part.pairs);
    part.in_row = Scratch<int32_t>(part.pairs);
    part.out_row = Scratch<int32_t>(part.pairs);
    targets.list(out.table(), begin, end, {part.word.get(), part.tap.get(), part.in_row.get()});
  });
  for (const Part& part : parts_) {
    out.add_words(part.word.get(), part.pairs);
    pairs_ += part.pairs;
  }
  out.number_words(true);
  native::parallel_for(count, 1, threads_, [&](int64_t i, int64_t) {
    NATIVE_CALL_ISA(find_ids)(out.table(), parts_[i].word.get(), parts_[i].pairs, parts_[i].word.get());
  });
  for (const Part& part : parts_) out.set_bits(part.word.get(), part.tap.get(), part.pairs);
  out_rows_ = out.rank();
  check_rows(out_rows_, "output");
  check_offsets(g, out_rows_);
  out_indices_ = Scratch<int32_t>(out_rows_ * (g.ndim + 1));
  out.write_sites(out_indices_.get(), g.ndim, threads_);
  native::parallel_for(count, 1, threads_, [&](int64_t i, int64_t) {
    Part& part = parts_[static_cast<size_t>(i)];
    part.next = Scratch<int64_t>(block_offsets());
    std::fill_n(part.next.get(), block_offsets(), int64_t{0});
    NATIVE_CALL_ISA(find_ranks)(out.table().words, part.word.get(), part.tap.get(), part.pairs, g.volume(),
                                part.out_row.get(), part.next.get());
  });
  int64_t start = 0;
  for (int64_t bucket = 0; bucket < block_offsets(); ++bucket)
    for (const Part& part : parts_) start += std::exchange(part.next[bucket], start);
}

void Rulebook::write_out_indices(int32_t* out_indices) const {
  const int32_t* from = out_indices_.get() != nullptr ? out_indices_.get() : in_indices_;
  std::copy_n(from, out_rows_ * (geometry_.ndim + 1), out_indices);
}

void Rulebook::write_compact(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const {
  if (parts_.empty())
    join_chunks(pair_in, pair_out, block_offset);
  else
    sort_parts(pair_in, pair_out, block_offset);
}

void Rulebook::join_chunks(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const {
  const int64_t offsets = block_offsets() - 1, per_chunk = rows_per_chunk / block_rows * geometry_.volume();
  block_offset[0] = 0;
  native::parallel_for(static_cast<int64_t>(chunks_.size()), 8, threads_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Chunk& chunk = chunks_[static_cast<size_t>(i)];
      std::copy_n(chunk.pair_in.get(), chunk.pairs, pair_in + chunk.start);
      std::copy_n(chunk.pair_out.get(), chunk.pairs, pair_out + chunk.start);
      const int64_t first = i * per_chunk;
      for (int64_t j = 0; j < std::min(per_chunk, offsets - first); ++j)
        block_offset[1 + first + j] = chunk.start + chunk.block_end[j];
    }
  });
}

// What output block and offset have in common stays in the order of input rows, whatever the number of parts.
void Rulebook::sort_parts(int32_t* pair_in, uint8_t* pair_out, int64_t* block_offset) const {
  const int64_t volume = geometry_.volume();
  std::copy_n(parts_.front().next.get(), block_offsets(), block_offset);
  native::parallel_for(static_cast<int64_t>(parts_.size()), 1, threads_, [&](int64_t i, int64_t) {
    const Part& part = parts_[static_cast<size_t>(i)];
    const Scratch<int64_t> next(block_offsets());
    std::copy_n(part.next.get(), block_offsets(), next.get());
    for (int64_t p = 0; p < part.pairs; ++p) {
      const int64_t at = next[bucket_of(part.out_row[p], part.tap[p], volume)]++;
      pair_in[at] = part.in_row[p];
      pair_out[at] = static_cast<uint8_t>(part.out_row[p] % block_rows);
    }
  });
}

void Rulebook::write_padded(int32_t* indice_pairs, int32_t* indice_num) const {
  const int64_t volume = geometry_.volume(), blocks = (out_rows_ + block_rows - 1) / block_rows;
  const Scratch<int32_t> pair_in(pairs_);
  const Scratch<uint8_t> pair_out(pairs_);
  const Scratch<int64_t> block_offset(block_offsets());
  write_compact(pair_in.get(), pair_out.get(), block_offset.get());
  native::parallel_for(volume, 1, threads_, [&](int64_t k, int64_t) {
    int32_t* in = indice_pairs + k * in_rows_;
    int32_t* out = indice_pairs + (volume + k) * in_rows_;
    int64_t count = 0;
    for (int64_t block = 0; block < blocks; ++block)
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
  if (block_offset[0] != 0 || block_offset[blocks * volume] != pairs ||
      !std::is_sorted(block_offset, block_offset + blocks * volume + 1))
    throw native::ValueError("transpose_rulebook: block_offset must rise from 0 to the " +
                             std::to_string(pairs) + " pairs; it belongs to another rulebook");
  std::fill(block_offset_t, block_offset_t + blocks_t * volume + 1, 0);
  auto each_pair = [&](int64_t k, auto&& visit) {
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t p = block_offset[block * volume + k]; p < block_offset[block * volume + k + 1]; ++p)
        visit(pair_in[p], block * block_rows + pair_out[p]);
  };
  native::parallel_for(volume, 1, threads, [&](int64_t k, int64_t) {
    each_pair(k, [&](int64_t in, int64_t out) {
      if (out >= out_rows)
        throw native::ValueError("transpose_rulebook: pair_out leads to row " + std::to_string(out) +
                                 ", but the output has " + std::to_string(out_rows) +
                                 " rows; it belongs to another rulebook");
      if (in < 0 || in >= in_rows)
        throw native::ValueError("transpose_rulebook: pair_in holds row " + std::to_string(in) +
                                 ", but the input has " + std::to_string(in_rows) +
                                 " rows; it belongs to another rulebook");
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
