#include "sampling/dry.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace dsr {
namespace {

constexpr std::string_view kBreakers = "\n:\"*";
constexpr int64_t kMaxExponent = 50;
constexpr double kMaxPenalty = 1e6;

}  // namespace

std::vector<bool> dry_breakers(const Tokenizer* tokenizer, int64_t vocab_size) {
  if (tokenizer == nullptr) return {};
  std::vector<bool> out(static_cast<size_t>(vocab_size), false);
  for (int64_t i = 0; i < std::min(vocab_size, tokenizer->id_limit()); ++i) {
    const auto id = static_cast<TokenId>(i);
    if (!tokenizer->has_entry(id)) continue;
    const bool breaks = tokenizer->token_bytes(id).find_first_of(kBreakers) != std::string::npos;
    out[static_cast<size_t>(i)] = breaks || tokenizer->is_special(id);
  }
  return out;
}

int64_t Dry::max_length() const { return params_.allowed_length + kMaxExponent; }

void Dry::append(TokenId id, bool match) {
  const auto end = static_cast<int64_t>(positions_.size());
  positions_.emplace_back();
  if (is_breaker(id)) return;
  const auto [last, is_new] = last_.try_emplace(id, -1);
  positions_.back().previous = std::exchange(last->second, end);
  if (!match) return;
  // From the latest to the earliest: a match grows out of that one position before it, which is
  // overwritten after it was looked at.
  for (int64_t i = positions_.back().previous; i >= 0;) {
    Position& p = positions_[static_cast<size_t>(i)];
    const Position* before = i > 0 ? &positions_[static_cast<size_t>(i - 1)] : nullptr;
    const bool continued = before != nullptr && before->matched_at == end - 1;
    p.length = std::min(continued ? before->length + 1 : 1, max_length());
    p.matched_at = end;
    i = p.previous;
  }
}

std::vector<TokenPenalty> Dry::penalties(std::span<const TokenId> tokens) {
  const auto n = static_cast<int64_t>(tokens.size());
  DSR_CHECK(n >= static_cast<int64_t>(positions_.size()), n, positions_.size());
  // A match is counted to max_length() tokens, so those before the last that many are only noted.
  for (auto i = static_cast<int64_t>(positions_.size()); i < n; ++i)
    append(tokens[static_cast<size_t>(i)], i >= n - max_length());
  if (n == 0) return {};

  std::unordered_map<TokenId, int64_t> longest;  // by the token that follows
  for (int64_t i = positions_.back().previous; i >= 0;) {
    const Position& p = positions_[static_cast<size_t>(i)];
    const TokenId next = tokens[static_cast<size_t>(i + 1)];
    if (p.length >= params_.allowed_length && !is_breaker(next)) {
      int64_t& length = longest[next];
      length = std::max(length, p.length);
    }
    i = p.previous;
  }
  std::vector<std::pair<int64_t, TokenId>> order;  // longest first, then the lower id
  for (const auto& [id, length] : longest) order.emplace_back(-length, id);
  std::sort(order.begin(), order.end());
  order.resize(std::min(order.size(), static_cast<size_t>(kMaxDryPenalties)));

  std::vector<TokenPenalty> out;
  for (const auto& [length, id] : order) {
    const auto exponent = static_cast<double>(-length - params_.allowed_length);
    const double penalty = params_.multiplier * std::pow(params_.base, exponent);
    out.push_back({id, std::min(penalty, kMaxPenalty)});
  }
  std::sort(out.begin(), out.end(),
            [](const TokenPenalty& a, const TokenPenalty& b) { return a.id < b.id; });
  return out;
}

}  // namespace dsr
