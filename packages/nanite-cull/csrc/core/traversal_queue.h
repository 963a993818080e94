// The protocol of a persistent traversal (Karis et al. 2021): any number of workers take nodes from one
// queue, put children back, collect groups of clusters in a second queue, and stop when no node waits or is
// worked on.
//
// Written as a machine whose step() touches shared memory at most once: a worker runs it in a loop, on
// threads or on a device, and the tests let it take every step in every order. `Memory` does the touching.
//
//   - Reserved is not written: a slot of the node queue holds `empty_slot` until its node is there; a batch
//   of
//     the cluster queue is complete when its commits add up.
//   - Children are counted as pending before their parent retires, so pending is zero only at the end. What
//     was committed before is then visible: retiring releases, reading zero acquires.
//   - A claim is kept and polled. One beyond the capacity is never served and not waited for; what did not
//   fit
//     is taken from pending again and counted.
//   - Nobody waits for a worker that has not started.
#pragma once

#include "core/queue_layout.h"

namespace nanite_cull {

constexpr int most_children = 8;  // of a node

// Nodes and groups that a node leads to.
struct Children {
  uint32_t nodes = 0, groups = 0;
  uint64_t node[most_children] = {}, group[most_children] = {};
};

// Memory:
//   uint32_t add(uint32_t QueueState::*, uint32_t)             relaxed; returns what was there
//   uint32_t retire(uint32_t n)                                acquire and release, on pending_nodes
//   uint32_t pending()                                         acquire
//   uint32_t tail()                                            of clusters; after pending() was zero
//   uint64_t node(uint32_t slot), void publish(slot, word)     acquire, release
//   void write_cluster(slot, word), uint64_t read_cluster(slot)    plain
//   void commit(uint32_t batch, uint32_t n)                    release
//   uint32_t committed(uint32_t batch)                         acquire
// Work:
//   void visit(uint64_t node, Children&), void group(uint64_t group)
template <class Memory, class Work>
class QueueWorker {
 public:
  HD QueueWorker(uint32_t node_capacity, uint32_t cluster_capacity, uint32_t batch)
      : node_capacity_(node_capacity), cluster_capacity_(cluster_capacity), batch_(batch) {}

  // One step; false at the end. `waited`: nothing was there to do.
  HD bool step(Memory& memory, Work& work, bool& waited) {
    waited = false;
    switch (at_) {
      case At::claim:
        claim_ = memory.add(&QueueState::node_head, 1);
        at_ = At::poll;
        return true;
      case At::poll: {
        at_ = At::poll_clusters;
        if (claim_ >= node_capacity_) return true;
        const uint64_t word = memory.node(claim_);
        if (word == empty_slot) return true;
        work.visit(word, found_);
        at_ = found_.nodes > 0 ? At::count_children : found_.groups > 0 ? At::reserve_clusters : At::retire;
        return true;
      }
      case At::count_children:
        memory.add(&QueueState::pending_nodes, found_.nodes);
        at_ = At::reserve_nodes;
        return true;
      case At::reserve_nodes:
        base_ = memory.add(&QueueState::node_tail, found_.nodes);
        next_ = 0, at_ = At::publish;
        return true;
      case At::publish:
        if (next_ == found_.nodes || base_ + next_ >= node_capacity_) {
          at_ = next_ < found_.nodes ? At::drop_nodes : found_.groups > 0 ? At::reserve_clusters : At::retire;
          return true;
        }
        memory.publish(base_ + next_, found_.node[next_]);
        ++next_;
        return true;
      case At::drop_nodes:
        memory.add(&QueueState::dropped_nodes, found_.nodes - next_);
        at_ = At::uncount;
        return true;
      case At::uncount:
        memory.retire(found_.nodes - next_);
        at_ = found_.groups > 0 ? At::reserve_clusters : At::retire;
        return true;
      case At::reserve_clusters:
        base_ = memory.add(&QueueState::cluster_tail, found_.groups);
        next_ = 0, at_ = At::write_clusters;
        return true;
      case At::write_clusters:
        if (next_ < found_.groups && base_ + next_ < cluster_capacity_) {
          memory.write_cluster(base_ + next_, found_.group[next_]);
          ++next_;
          return true;
        }
        written_ = next_, next_ = 0, at_ = At::commit;
        return true;
      case At::commit: {
        if (next_ == written_) {
          at_ = written_ < found_.groups ? At::drop_clusters : At::retire;
          return true;
        }
        const uint32_t slot = base_ + next_, room = batch_ - slot % batch_;
        const uint32_t n = least<uint32_t>(room, written_ - next_);
        memory.commit(slot / batch_, n);
        next_ += n;
        return true;
      }
      case At::drop_clusters:
        memory.add(&QueueState::dropped_clusters, found_.groups - written_);
        at_ = At::retire;
        return true;
      case At::retire:
        memory.retire(1);
        found_ = {}, base_ = next_ = written_ = 0;
        at_ = At::claim;
        return true;
      case At::poll_clusters:
        if (!holds_batch_) {
          batch_claim_ = memory.add(&QueueState::cluster_head, 1);
          holds_batch_ = 1;
          return true;
        }
        at_ = At::look_at_pending;
        if (first_cluster() + batch_ > cluster_capacity_) return true;  // partial at best: at the end
        if (memory.committed(batch_claim_) < batch_) return true;
        last_ = first_cluster() + batch_, next_ = 0, final_ = 0, at_ = At::work_on_batch;
        return true;
      case At::look_at_pending:
        final_ = memory.pending() == 0;
        at_ = final_ ? At::read_tail : At::poll;
        waited = !final_;
        return true;
      case At::read_tail:
        last_ = least<uint64_t>(least(memory.tail(), cluster_capacity_), first_cluster() + batch_);
        next_ = 0, at_ = At::work_on_batch;
        return first_cluster() < last_;
      case At::work_on_batch:
        if (first_cluster() + next_ < last_) {
          work.group(memory.read_cluster(static_cast<uint32_t>(first_cluster()) + next_));
          ++next_;
          return true;
        }
        holds_batch_ = 0, next_ = 0, last_ = 0;
        at_ = final_ ? At::claim_last : At::poll;
        return true;
      case At::claim_last:
        batch_claim_ = memory.add(&QueueState::cluster_head, 1);
        holds_batch_ = 1, at_ = At::read_tail;
        return true;
    }
    return false;
  }

 private:
  enum class At : uint32_t {
    claim,
    poll,
    count_children,
    reserve_nodes,
    publish,
    drop_nodes,
    uncount,
    reserve_clusters,
    write_clusters,
    commit,
    drop_clusters,
    retire,
    poll_clusters,
    look_at_pending,
    read_tail,
    work_on_batch,
    claim_last
  };
  HD uint64_t first_cluster() const { return uint64_t(batch_claim_) * batch_; }

  // no padding: the tests compare states as bytes
  uint32_t node_capacity_, cluster_capacity_, batch_;
  uint32_t claim_ = 0, batch_claim_ = 0;  // a slot of nodes, a batch of clusters
  uint32_t holds_batch_ = 0, final_ = 0;
  uint32_t base_ = 0, next_ = 0, written_ = 0;  // of what is being put into a queue, or taken from a batch
  At at_ = At::claim;
  uint32_t unused_ = 0;
  uint64_t last_ = 0;
  Children found_;
};

}  // namespace nanite_cull
