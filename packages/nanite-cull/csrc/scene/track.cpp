#include "scene/track.h"

#include <algorithm>

namespace nanite_cull {

bool Track::previous(int64_t index, uint64_t epoch, const Placement& now, Placement& out) const {
  if (changed_[index] == 2 * epoch + 1) return false;
  out = now;
  if (changed_[index] != 2 * epoch) return true;
  const double* kept = &previous_[12 * index];
  out = {kept, {kept[9], kept[10], kept[11]}};
  return true;
}

void Track::resize(int64_t count) {
  changed_.resize(count, 2 * epoch_ + 1);
  if (!previous_.empty()) make_room();
}

void Track::make_room() { previous_.resize(12 * changed_.size()); }

void Track::keep(int64_t index, const Placement& now) {
  if (changed_[index] / 2 == epoch_) return;
  changed_[index] = 2 * epoch_;
  double* kept = &previous_[12 * index];
  std::copy_n(now.linear, 9, kept);
  std::copy_n(now.translation, 3, kept + 9);
}

void Track::erase(int64_t first, int64_t count) {
  changed_.erase(changed_.begin() + first, changed_.begin() + first + count);
  if (!previous_.empty())
    previous_.erase(previous_.begin() + 12 * first, previous_.begin() + 12 * (first + count));
}

}  // namespace nanite_cull
