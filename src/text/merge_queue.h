// The possible merges of a long piece, smallest key first.
//
// In repetitive text, which makes the longest pieces, most keys arrive in ascending order: they are
// appended to one of a few sorted runs, and only keys that fit none go into a heap.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

namespace dsr {

class MergeQueue {
 public:
  // Starts with `keys`, in any order.
  explicit MergeQueue(std::vector<uint64_t> keys) {
    std::sort(keys.begin(), keys.end());
    runs_[0].keys = std::move(keys);
  }

  void push(uint64_t key) {
    Run* best = nullptr;  // the run whose end is nearest below
    for (Run& run : runs_) {
      if (run.next == run.keys.size()) run = {};
      const bool fits = run.keys.empty() || run.keys.back() <= key;
      if (fits && (best == nullptr || run.end() > best->end())) best = &run;
    }
    if (best != nullptr) {
      best->keys.push_back(key);
    } else {
      heap_.push(key);
    }
  }

  // Takes the smallest key; false if there is none.
  bool pop(uint64_t& key) {
    Run* smallest = nullptr;
    for (Run& run : runs_) {
      if (run.next < run.keys.size() &&
          (smallest == nullptr || run.keys[run.next] < smallest->keys[smallest->next]))
        smallest = &run;
    }
    if (!heap_.empty() && (smallest == nullptr || heap_.top() < smallest->keys[smallest->next])) {
      key = heap_.top();
      heap_.pop();
      return true;
    }
    if (smallest == nullptr) return false;
    key = smallest->keys[smallest->next++];
    return true;
  }

 private:
  struct Run {
    std::vector<uint64_t> keys;  // ascending
    size_t next = 0;             // taken so far
    uint64_t end() const { return keys.empty() ? 0 : keys.back(); }
  };
  std::array<Run, 4> runs_;
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap_;
};

}  // namespace dsr
