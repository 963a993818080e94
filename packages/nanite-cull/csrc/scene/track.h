// Where the instances of a scene were when a frame was drawn: what one history (raster/two_pass.h) looks back
// at. A scene writes into the track of each history what changes; each begins anew with each of its frames,
// so that histories of one scene know nothing of one another.
#pragma once

#include <cstdint>
#include <vector>

#include "core/instance_view.h"

namespace nanite_cull {

using Placement = BasicPlacement<double>;

class Track {
 public:
  // Frames divide time: the present epoch, and the next one. The scene's lock is held.
  uint64_t epoch() const { return epoch_; }
  uint64_t begin() { return ++epoch_; }

  // Where an instance that lies at `now` was when `epoch` began; false where it was not there yet.
  bool previous(int64_t index, uint64_t epoch, const Placement& now, Placement& out) const;

 private:
  friend class Scene;
  void resize(int64_t count);                      // new ones were not there
  void make_room();                                // before the first keep()
  void keep(int64_t index, const Placement& now);  // of instances apart by any number of threads
  void erase(int64_t first, int64_t count);

  uint64_t epoch_ = 1;
  std::vector<uint64_t> changed_;  // twice the epoch of the last change, one more where the instance is new
  std::vector<double> previous_;   // (n, 12), linear part and translation before that epoch's first change;
                                   // empty until something moves
};

}  // namespace nanite_cull
