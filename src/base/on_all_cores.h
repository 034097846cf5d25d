// Work in pieces of any size, for as many threads as the machine has cores.
#pragma once

#include <algorithm>
#include <atomic>
#include <future>
#include <thread>
#include <vector>

namespace dsr {

// Calls each(i) for i in [0, n), in no order, and waits for all. What a call throws ends its
// thread's part and is thrown here.
template <typename Each>
void on_all_cores(size_t n, const Each& each) {
  std::atomic<size_t> next = 0;
  const auto part = [&] {
    for (size_t i = next++; i < n; i = next++) each(i);
  };
  std::vector<std::future<void>> others;
  for (size_t t = 1; t < std::min<size_t>(n, std::thread::hardware_concurrency()); ++t)
    others.push_back(std::async(std::launch::async, part));
  part();
  for (std::future<void>& other : others) other.get();
}

}  // namespace dsr
