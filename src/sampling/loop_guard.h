// Notices that an answer has come to say one thing over and over.
//
// A loop: the answer ends in at least min_copies copies of the same `period` tokens, at least
// min_tokens tokens of it in all, for some period up to max_period. Copies are exact, so counting,
// tables, lists and code, where something changes from line to line, are no loops however long they
// are; and what repeats itself exactly (a rule of dashes, a row of zeros, a refrain) has to do so
// for 1024 tokens. Only generated tokens count.
//
// For every period it is known for how many tokens the answer has repeated itself at that distance:
// one comparison a period and token, 0.2 us of processor time a token in all, and less at the
// beginning of an answer (LoopGuard.CostsLittle).
#pragma once

#include <cstdint>
#include <vector>

#include "deepseek_run/tokenizer.h"

namespace dsr {

struct LoopLimits {
  int32_t max_period = 1024;
  int32_t min_copies = 4;
  int32_t min_tokens = 1024;
};

class LoopGuard {
 public:
  explicit LoopGuard(const LoopLimits& limits = {});

  // Takes in the next token of the answer; true if it ends in a loop now.
  bool push(TokenId id);

 private:
  LoopLimits limits_;
  // The last max_period tokens, oldest first, at the end of the array: when it is full they move to
  // the front.
  std::vector<TokenId> tokens_;
  size_t end_ = 0;
  size_t known_ = 0;  // how many of them are the answer's
  // [max_period], for the period max_period - i: how many tokens at the end of the answer equal the
  // one a period before; and how many make a loop.
  std::vector<int32_t> repeated_, needed_;
};

}  // namespace dsr
