// What a decode row's neighbours and its slot in a batch must not change.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "support/reference_model.h"

namespace dsr::test {

// Logits of n of the decode rows, from `first` on and round, in one batch of `m`: bit for bit those
// of each row alone, alone[s].
inline void expect_as_alone(ReferenceModel& m, const std::vector<SequencePart>& decode,
                            const std::vector<std::vector<float>>& alone, int64_t n,
                            int64_t first) {
  const auto place = [&](int64_t i) {
    return static_cast<size_t>((first + i) % std::ssize(decode));
  };
  std::vector<SequencePart> batch;
  for (int64_t i = 0; i < n; ++i) batch.push_back(decode[place(i)]);
  const std::vector<float> got = m.step(batch).logits;
  const int64_t vocab = std::ssize(alone.front());
  ASSERT_EQ(std::ssize(got), n * vocab);
  for (int64_t i = 0; i < n; ++i)
    EXPECT_TRUE(
        std::equal(got.begin() + i * vocab, got.begin() + (i + 1) * vocab, alone[place(i)].begin()))
        << "sequence " << place(i) << " at slot " << i << " in a batch of " << n;
}

}  // namespace dsr::test
