// The persistent traversal's protocol on a device's memory: nothing is lost, nothing twice, it ends.
#include "walk.h"

namespace {

nanite_cull::cuda::DeviceQueue right(nanite_cull::cuda::DeviceQueue queue) { return queue; }

}  // namespace

CUSIM_CASE(every_node_and_group_is_visited_once) { walk::check(device, 0, 4, right); }
CUSIM_CASE(room_for_one) { walk::check(device, 1, 1, right); }
CUSIM_CASE(room_for_a_few) {
  for (const uint32_t room : {2, 7, 33}) walk::check(device, room, 3, right);
}

CUSIM_MAIN
