// Pages of files under a memory budget, in and out as frames ask for them.
//
// A frame asks, page by page, for what it would draw (core/requests.h); the next one begins by planning: what
// is wanted most comes first, parents before children, as far as the budget reaches. Room is made by evicting
// what has not been wanted for longest, of that the finest. Threads of the streamer decode; what they have
// finished is put in between frames, all at once. What a frame draws from is kept alive by the frame.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "store/residency.h"

namespace nanite_cull {

struct StreamOptions {
  uint64_t budget = uint64_t(512) << 20;  // bytes of decoded pages
  uint32_t max_installs = 128;            // pages put in between two frames
  int threads = 1;                        // that decode
  bool wait = false;                      // nothing is decoded but by load_wanted()
};

struct StreamStats {
  uint64_t pages = 0, bytes = 0;                // there
  uint64_t wanted_pages = 0, wanted_bytes = 0;  // by the last frame, with what stays
  uint64_t missing_pages = 0;                   // of these, not there
  uint64_t installed = 0, evicted = 0;          // since the streamer was made
  float threshold_scale = 1;                    // pressure of the budget: by what the threshold is multiplied
};

class Streamer {
 public:
  // Throws native::ValueError for options that make no sense.
  explicit Streamer(const StreamOptions& options);
  ~Streamer();
  Streamer(const Streamer&) = delete;
  Streamer& operator=(const Streamer&) = delete;

  // Begins a frame of these assets (those without a file are left alone): puts in what has been decoded, and
  // asks for what the last frame wanted. Throws native::ValueError where a page could not be read, and where
  // the pages that stay do not fit the budget.
  void begin_frame(const std::vector<std::shared_ptr<const Asset>>& assets);

  // Begins one more view of the frame that has begun, or the same one again: what is there stays there, and
  // what it wants counts with what was wanted before. Throws as begin_frame does.
  void begin_view(const std::vector<std::shared_ptr<const Asset>>& assets);

  // Reads what the last frame wanted, as far as the budget reaches, and waits for it; how many pages that
  // were. Throws as begin_frame does.
  uint64_t load_wanted();

  StreamStats stats() const;

  // What is there, held while somebody reads it; of no streamer, nothing.
  class Hold {
   public:
    explicit Hold(const Streamer* streamer) : streamer_(streamer) {
      if (streamer) lock_ = std::shared_lock(streamer->lock_);
    }
    // Null for an asset that no frame began with.
    const Residency* find(const Asset& asset) const;

   private:
    const Streamer* streamer_;
    std::shared_lock<std::shared_mutex> lock_;
  };

  // For tests: makes exactly these pages, and those that stay, be there; `pages` has a byte for each.
  void set_pages(const std::shared_ptr<const Asset>& asset, const uint8_t* pages);

 private:
  struct Entry;   // an asset and its pages
  struct Wish;    // a page and how much it is wanted
  struct Job;     // a page to decode
  class Workers;  // the threads that do

  void enter(const std::vector<std::shared_ptr<const Asset>>& assets);
  Entry& entry_of(const std::shared_ptr<const Asset>& asset);
  void forget_unused();
  uint64_t pinned_bytes() const;
  std::vector<Wish> read_wishes();
  void keep(std::vector<Wish>& wishes);
  void plan(const std::vector<Wish>& wishes);
  bool make_room(uint64_t bytes);
  void find_victims();
  void take_decoded();
  void put_in(Entry& entry, uint32_t page, std::shared_ptr<const Page> data);
  void take_out(Entry& entry, uint32_t page);
  void press(uint64_t wanted_bytes);
  void next_frame();

  StreamOptions options_;
  mutable std::shared_mutex lock_;
  std::map<const Asset*, std::unique_ptr<Entry>> entries_;
  std::vector<Wish> victims_;  // pages that may go, the last one first
  uint64_t frame_ = 0;
  uint32_t word_frame_ = 0;
  uint64_t reserved_ = 0;  // bytes of pages that are being decoded
  StreamStats stats_;
  std::unique_ptr<Workers> workers_;
};

}  // namespace nanite_cull
