#include "sampling/loop_guard.h"

#include <algorithm>

#include "base/error.h"

namespace dsr {
namespace {

constexpr TokenId kNoToken = -1;

}  // namespace

LoopGuard::LoopGuard(const LoopLimits& limits) : limits_(limits) {
  DSR_CHECK(limits.max_period > 0 && limits.min_copies > 1, limits.max_period, limits.min_copies);
  const auto n = static_cast<size_t>(limits.max_period);
  tokens_.assign(8 * n, kNoToken);
  end_ = n;
  repeated_.assign(n, 0);
  for (size_t i = 0; i < n; ++i) {
    const auto period = static_cast<int32_t>(n - i);
    // The first copy repeats nothing.
    needed_.push_back(std::max((limits.min_copies - 1) * period, limits.min_tokens - period));
  }
}

bool LoopGuard::push(TokenId id) {
  const auto n = static_cast<size_t>(limits_.max_period);
  if (end_ == tokens_.size()) {
    std::copy(tokens_.end() - limits_.max_period, tokens_.end(), tokens_.begin());
    end_ = n;
  }
  const TokenId* earlier = tokens_.data() + end_ - n;
  int32_t loops = 0;
  // Periods longer than the answer have nothing to repeat. No branches: the compiler makes vectors
  // of it.
  for (size_t i = n - known_; i < n; ++i) {
    const int32_t count = earlier[i] == id ? repeated_[i] + 1 : 0;
    repeated_[i] = count;
    loops |= static_cast<int32_t>(count >= needed_[i]);
  }
  tokens_[end_++] = id;
  known_ = std::min(known_ + 1, n);
  return loops != 0;
}

}  // namespace dsr
