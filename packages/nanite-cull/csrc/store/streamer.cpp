#include "store/streamer.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <string>

#include "core/requests.h"
#include "native/check.h"
#include "native/parallel.h"
#include "store/ncl_file.h"

namespace nanite_cull {

namespace {

constexpr double high_pressure = 0.85, low_pressure = 0.70;  // of the budget
constexpr float largest_scale = 1024, most_rise = 2, fall = 1.05f;

bool any_streamed(const std::vector<std::shared_ptr<const Asset>>& assets) {
  return std::any_of(assets.begin(), assets.end(), [](const auto& asset) { return asset->file != nullptr; });
}

}  // namespace

struct Streamer::Entry {
  explicit Entry(std::shared_ptr<const Asset> asset)
      : residency(std::move(asset)), pages(residency.pages().size()) {}

  struct PageState {
    uint64_t frame = 0;  // the last one that wanted it
    float pixels = 0;    // and how much
    bool decoding = false;
  };
  Residency residency;
  std::vector<PageState> pages;
};

struct Streamer::Wish {
  Entry* entry;
  uint32_t page;
  uint64_t frame;
  float pixels;

  // Later and stronger wishes first; of equal ones the parents, whose pages have lower numbers.
  bool operator<(const Wish& other) const {
    if (frame != other.frame) return frame > other.frame;
    if (pixels != other.pixels) return pixels > other.pixels;
    return page < other.page;
  }
};

struct Streamer::Job {
  std::shared_ptr<const Asset> asset;  // keeps the file open
  uint32_t page;
  std::shared_ptr<const Page> data;
  std::exception_ptr error;

  void run() {
    try {
      data = asset->file->read_page(page);
    } catch (...) {
      error = std::current_exception();
    }
  }
};

// Threads that decode, and the two lists they work between.
class Streamer::Workers {
 public:
  explicit Workers(int count) {
    for (int i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Workers() {
    {
      const std::lock_guard held(lock_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  bool forked() const { return getpid() != process_; }

  // Takes back what nobody has begun, and what is done.
  void collect(std::vector<Job>& undone, std::vector<Job>& done) {
    const std::lock_guard held(lock_);
    undone.assign(std::make_move_iterator(waiting_.begin()), std::make_move_iterator(waiting_.end()));
    waiting_.clear();
    done.swap(done_);
    done_.clear();
  }
  void give(std::vector<Job> jobs) {
    {
      const std::lock_guard held(lock_);
      waiting_.assign(std::make_move_iterator(jobs.begin()), std::make_move_iterator(jobs.end()));
    }
    wake_.notify_all();
  }

 private:
  void work() {
    std::unique_lock held(lock_);
    for (;;) {
      wake_.wait(held, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      Job job = std::move(waiting_.front());
      waiting_.pop_front();
      held.unlock();
      job.run();
      held.lock();
      done_.push_back(std::move(job));
    }
  }

  const pid_t process_ = getpid();
  std::mutex lock_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::deque<Job> waiting_;
  std::vector<Job> done_;
  std::vector<std::thread> threads_;
};

Streamer::Streamer(const StreamOptions& options) : options_(options) {
  native::demand(options.budget > 0, [] { return std::string("Streamer: budget must be positive, got 0"); });
  native::demand(options.max_installs > 0,
                 [] { return std::string("Streamer: max_installs must be at least 1, got 0"); });
  native::demand(options.threads >= 1 && options.threads <= 256, [&] {
    return "Streamer: threads must be 1 to 256, got " + std::to_string(options.threads);
  });
}

Streamer::~Streamer() {
  if (workers_ && workers_->forked()) (void)workers_.release();
}

const Residency* Streamer::Hold::find(const Asset& asset) const {
  if (!streamer_) return nullptr;
  const auto found = streamer_->entries_.find(&asset);
  return found == streamer_->entries_.end() ? nullptr : &found->second->residency;
}

void Streamer::begin_frame(const std::vector<std::shared_ptr<const Asset>>& assets) {
  if (!any_streamed(assets)) return;
  const std::unique_lock held(lock_);
  enter(assets);
  if (!options_.wait) {
    std::vector<Wish> wishes = read_wishes();
    take_decoded();
    press(stats_.wanted_bytes);
    keep(wishes);
    plan(wishes);
  }
  next_frame();
}

void Streamer::begin_view(const std::vector<std::shared_ptr<const Asset>>& assets) {
  if (!any_streamed(assets)) return;
  const std::unique_lock held(lock_);
  enter(assets);
  for (auto& [_, entry] : entries_) entry->residency.requests().frame = word_frame_;  // new ones' too
}

void Streamer::enter(const std::vector<std::shared_ptr<const Asset>>& assets) {
  for (const auto& asset : assets)
    if (const auto known = entries_.find(asset.get()); known != entries_.end())
      known->second->residency.own(asset);
  forget_unused();
  for (const auto& asset : assets)
    if (asset->file) entry_of(asset);
}

// What no scene and no frame has any more.
void Streamer::forget_unused() {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const Residency& residency = entry->second->residency;
    if (residency.source().use_count() > 1) {
      ++entry;
      continue;
    }
    for (uint32_t p = 0; p < residency.pages().size(); ++p)
      if (residency.pages()[p]) --stats_.pages, stats_.bytes -= residency.bytes(p);
    entry = entries_.erase(entry);
  }
}

Streamer::Entry& Streamer::entry_of(const std::shared_ptr<const Asset>& asset) {
  const auto found = entries_.find(asset.get());
  if (found != entries_.end()) return *found->second;
  auto entry = std::make_unique<Entry>(asset);
  const Residency& residency = entry->residency;
  uint64_t pages = 0, bytes = 0;
  for (uint32_t p = 0; p < residency.pages().size(); ++p)
    if (residency.pinned(p)) ++pages, bytes += residency.bytes(p);
  const uint64_t staying = pinned_bytes() + bytes;
  native::demand(staying <= options_.budget, [&] {
    return "Renderer: the coarsest pages of the streamed assets, which always stay, take " +
           std::to_string(staying) + " bytes, more than the budget of " + std::to_string(options_.budget) +
           "; raise budget=";
  });
  find_victims();
  make_room(bytes);
  stats_.pages += pages, stats_.bytes += bytes;
  return *(entries_[asset.get()] = std::move(entry));
}

uint64_t Streamer::pinned_bytes() const {
  uint64_t sum = 0;
  for (const auto& [_, entry] : entries_)
    for (uint32_t p = 0; p < entry->pages.size(); ++p)
      if (entry->residency.pinned(p)) sum += entry->residency.bytes(p);
  return sum;
}

// What the last frame wanted, strongest first.
std::vector<Streamer::Wish> Streamer::read_wishes() {
  std::vector<Wish> wishes;
  std::vector<float> pixels;
  stats_.wanted_pages = stats_.wanted_bytes = stats_.missing_pages = 0;
  for (auto& [_, entry] : entries_) {
    const Residency& residency = entry->residency;
    residency.wanted_pages(word_frame_, pixels);
    for (uint32_t p = 0; p < pixels.size(); ++p) {
      if (!(pixels[p] > 0) && !residency.pinned(p)) continue;
      ++stats_.wanted_pages, stats_.wanted_bytes += residency.bytes(p);
      if (residency.pinned(p)) continue;
      stats_.missing_pages += residency.pages()[p] == nullptr;
      entry->pages[p].frame = frame_, entry->pages[p].pixels = pixels[p];
      wishes.push_back({entry.get(), p, frame_, pixels[p]});
    }
  }
  std::sort(wishes.begin(), wishes.end());
  return wishes;
}

// Above 85 % of the budget the threshold rises at once, below 70 % it goes back by small steps.
void Streamer::press(uint64_t wanted_bytes) {
  const double pressure = double(wanted_bytes) / double(options_.budget);
  float& scale = stats_.threshold_scale;
  // bytes go with about the inverse square of the threshold
  const float right = float(std::sqrt(pressure / ((high_pressure + low_pressure) / 2)));
  if (pressure > high_pressure)
    scale = std::min(scale * std::min(right, most_rise), largest_scale);
  else if (pressure < low_pressure)
    scale = std::max(scale / fall, 1.0f);
}

void Streamer::find_victims() {
  victims_.clear();
  for (auto& [_, entry] : entries_)
    for (uint32_t p = 0; p < entry->pages.size(); ++p)
      if (entry->residency.pages()[p] && !entry->residency.pinned(p))
        victims_.push_back({entry.get(), p, entry->pages[p].frame, entry->pages[p].pixels});
  std::sort(victims_.begin(), victims_.end());
}

// Evicts from the end of the victims; false where they do not suffice.
bool Streamer::make_room(uint64_t bytes) {
  while (stats_.bytes + reserved_ + bytes > options_.budget) {
    if (victims_.empty()) return false;
    take_out(*victims_.back().entry, victims_.back().page);
    victims_.pop_back();
  }
  return true;
}

// Cuts the wishes where the budget ends; what is left of them is no victim.
void Streamer::keep(std::vector<Wish>& wishes) {
  find_victims();
  uint64_t bytes = pinned_bytes();
  size_t count = 0;
  for (; count < wishes.size(); ++count) {
    bytes += wishes[count].entry->residency.bytes(wishes[count].page);
    if (bytes > options_.budget) break;
  }
  wishes.erase(wishes.begin() + count, wishes.end());
  if (count == 0) return;
  victims_.erase(victims_.begin(), std::upper_bound(victims_.begin(), victims_.end(), wishes.back()));
}

// Has the missing pages decoded, strongest wishes first.
void Streamer::plan(const std::vector<Wish>& wishes) {
  if (workers_ && workers_->forked()) (void)workers_.release();  // the threads are the parent's
  std::vector<Job> jobs;
  for (const Wish& wish : wishes) {
    Entry& entry = *wish.entry;
    if (jobs.size() == options_.max_installs) break;
    if (entry.residency.pages()[wish.page] || entry.pages[wish.page].decoding) continue;
    const uint64_t bytes = entry.residency.bytes(wish.page);
    if (!make_room(bytes)) break;
    reserved_ += bytes, entry.pages[wish.page].decoding = true;
    jobs.push_back({entry.residency.source(), wish.page, nullptr, nullptr});
  }
  if (!jobs.empty() && !workers_) workers_ = std::make_unique<Workers>(options_.threads);
  if (workers_) workers_->give(std::move(jobs));
}

// Puts in what is ready and takes back what nobody has begun.
void Streamer::take_decoded() {
  if (!workers_ || workers_->forked()) {
    for (auto& [_, entry] : entries_)
      for (auto& page : entry->pages) page.decoding = false;
    reserved_ = 0;
    return;
  }
  std::vector<Job> undone, done;
  workers_->collect(undone, done);
  std::exception_ptr error;
  auto release = [&](const Job& job) -> Entry* {
    reserved_ -= job.asset->file->memory(job.page);
    const auto found = entries_.find(job.asset.get());
    if (found == entries_.end()) return nullptr;
    found->second->pages[job.page].decoding = false;
    return found->second.get();
  };
  for (const Job& job : undone) release(job);
  for (Job& job : done) {
    Entry* entry = release(job);
    if (job.error) error = job.error;
    if (entry && job.data && !entry->residency.pages()[job.page])
      put_in(*entry, job.page, std::move(job.data));
  }
  if (error) std::rethrow_exception(error);
}

void Streamer::put_in(Entry& entry, uint32_t page, std::shared_ptr<const Page> data) {
  entry.residency.install(page, std::move(data));
  ++stats_.pages, ++stats_.installed, stats_.bytes += entry.residency.bytes(page);
}

void Streamer::take_out(Entry& entry, uint32_t page) {
  entry.residency.evict(page);
  --stats_.pages, ++stats_.evicted, stats_.bytes -= entry.residency.bytes(page);
}

void Streamer::next_frame() {
  ++frame_;
  const bool cleared = word_frame_ == last_request_frame;
  word_frame_ = cleared ? 1 : word_frame_ + 1;
  for (auto& [_, entry] : entries_) {
    Requests& requests = entry->residency.requests();
    requests.frame = word_frame_;
    for (size_t i = 0; cleared && i < requests.words.size(); ++i) requests.words[i] = 0;
  }
}

uint64_t Streamer::load_wanted() {
  const std::unique_lock held(lock_);
  std::vector<Wish> wishes = read_wishes();
  keep(wishes);
  std::vector<Wish> missing;
  for (const Wish& wish : wishes)
    if (!wish.entry->residency.pages()[wish.page]) missing.push_back(wish);
  PageTable pages(missing.size());
  native::parallel_for(pages.size(), 1, 0, [&](int64_t i, int64_t) {
    pages[i] = missing[i].entry->residency.source()->file->read_page(missing[i].page);
  });
  for (size_t i = 0; i < pages.size(); ++i) {
    make_room(missing[i].entry->residency.bytes(missing[i].page));
    put_in(*missing[i].entry, missing[i].page, std::move(pages[i]));
  }
  return pages.size();
}

void Streamer::set_pages(const std::shared_ptr<const Asset>& asset, const uint8_t* pages) {
  const std::unique_lock held(lock_);
  Entry& entry = entry_of(asset);
  for (uint32_t p = 0; p < entry.pages.size(); ++p) {
    if (entry.residency.pinned(p)) continue;
    const bool there = entry.residency.pages()[p] != nullptr;
    if (pages[p] && !there) put_in(entry, p, asset->file->read_page(p));
    if (!pages[p] && there) take_out(entry, p);
  }
}

StreamStats Streamer::stats() const {
  const std::shared_lock held(lock_);
  return stats_;
}

}  // namespace nanite_cull
