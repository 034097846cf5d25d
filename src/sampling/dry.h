// DRY, "don't repeat yourself": a penalty on tokens that would continue a repetition.
//
//   n(t)    = the most tokens at the end of the text that also stand earlier in it, followed by t
//   penalty = multiplier * base^(n(t) - allowed_length)   where n(t) >= allowed_length, else 0
//
// As p-e-w defined it in text-generation-webui, pull request 5677 (2024). A repetition neither
// contains a sequence breaker nor is one penalised: without them the form of a chat or a list would
// count as a repetition. n is counted to allowed_length + 50 and a penalty is at most 10^6, more
// than any two logits differ.
//
// Of a match only its ends matter: one that ends at position i and at the end of the text is one
// longer than that which ended at i - 1 and one token before the end. A token therefore costs as
// much as it has earlier occurrences, and no text is ever searched.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "deepseek_run/tokenizer.h"

namespace dsr {

struct DryParams {
  double multiplier = 0;
  double base = 1.75;
  int64_t allowed_length = 2;
};

struct TokenPenalty {
  TokenId id = 0;
  double penalty = 0;  // to be subtracted from the logit
  bool operator==(const TokenPenalty&) const = default;
};

// A row has at most so many; the longest repetitions, of equals the lower ids.
inline constexpr int64_t kMaxDryPenalties = 4096;

// Bit id: tokens that end a repetition. Those whose bytes hold a line break, colon, quotation mark
// or asterisk, and control tokens. Without a tokenizer none.
std::vector<bool> dry_breakers(const Tokenizer* tokenizer, int64_t vocab_size);

// The state of one sequence.
class Dry {
 public:
  // `breakers` outlives it; ids beyond its end are no breakers.
  Dry(const DryParams& params, const std::vector<bool>& breakers)
      : params_(params), breakers_(breakers) {}

  // Penalties of the token after `tokens`, by ascending id. What it was called with before is the
  // beginning of `tokens`.
  std::vector<TokenPenalty> penalties(std::span<const TokenId> tokens);

 private:
  struct Position {
    int64_t previous = -1;    // the position before with the same token; -1: none, or a breaker
    int64_t matched_at = -1;  // end of the text when `length` was true
    int64_t length = 0;       // of the match that ends here
  };

  bool is_breaker(TokenId id) const {
    return static_cast<size_t>(id) < breakers_.size() && breakers_[static_cast<size_t>(id)];
  }
  int64_t max_length() const;
  // Takes in the token at the end of positions_.
  void append(TokenId id, bool match);

  DryParams params_;
  const std::vector<bool>& breakers_;
  std::vector<Position> positions_;
  std::unordered_map<TokenId, int64_t> last_;  // the latest position of a token
};

}  // namespace dsr
