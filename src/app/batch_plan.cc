#include "app/batch_plan.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "kv/block_pool.h"
#include "tensor/kv_format.h"

namespace dsr {
namespace {

BatchItem read_item(const BatchPiece& piece, BatchParser& parser) {
  BatchItem out;
  out.piece = piece;
  try {
    const BatchRecord r = parser.parse(piece);
    const std::vector<TokenId>& prompt = r.request.request.prompt;
    out.custom_id = r.custom_id;
    out.prompt_tokens = std::ssize(prompt);
    out.max_new_tokens = r.request.request.max_new_tokens;
    out.n = r.n;
    const size_t shared = std::min(prompt.size(), static_cast<size_t>(kPageTokens));
    out.prefix = prefix_hash(kNoTokens, std::span(prompt).first(shared));
  } catch (const Error& e) {
    out.custom_id = parser.custom_id(piece);
    out.error = e.what();
    const std::string place = str("line ", piece.line);
    if (!out.error.starts_with(place)) out.error = place + ": " + out.error;
  }
  return out;
}

}  // namespace

std::string BatchItem::key() const { return custom_id.value_or(str("\nline ", piece.line)); }

std::vector<BatchItem> read_items(const std::vector<BatchPiece>& pieces, BatchParser& parser) {
  std::vector<BatchItem> out;
  std::unordered_map<std::string, int64_t> lines;
  for (const BatchPiece& piece : pieces) {
    out.push_back(read_item(piece, parser));
    const auto [first, is_new] = lines.emplace(out.back().key(), piece.line);
    if (!is_new)
      fail_usage("lines ", first->second, " and ", piece.line, " have the same custom_id ",
                 quoted(out.back().custom_id.value_or("")));
  }
  return out;
}

int64_t longest_tokens(const std::vector<BatchItem>& items) {
  int64_t out = 2;
  for (const BatchItem& i : items)
    if (i.error.empty())
      out = std::max(out, i.prompt_tokens + std::max<int64_t>(i.max_new_tokens, 1));
  return out;
}

std::vector<const BatchItem*> fastest_order(std::vector<const BatchItem*> items, int64_t ctx_size) {
  const auto length = [&](const BatchItem& i) {
    return i.max_new_tokens < 0 ? ctx_size : i.prompt_tokens + i.max_new_tokens;
  };
  std::unordered_map<uint64_t, int64_t> longest;  // by prefix
  for (const BatchItem* i : items) {
    int64_t& most = longest[i->prefix];
    most = std::max(most, length(*i));
  }
  std::stable_sort(items.begin(), items.end(), [&](const BatchItem* a, const BatchItem* b) {
    const auto rank = [&](const BatchItem& item) {
      return std::tuple(-longest.at(item.prefix), item.prefix, -length(item));
    };
    return rank(*a) < rank(*b);
  });
  return items;
}

double seconds_left(const std::vector<const BatchItem*>& unfinished, const BatchPace& pace) {
  const int64_t done = pace.ended_work + pace.running_work;
  if (done == 0) return 0;
  const bool knows_length = pace.ended_answers > 0;
  const int64_t mean = knows_length ? pace.ended_tokens / pace.ended_answers : 0;
  int64_t work = 0;
  for (const BatchItem* i : unfinished) {
    if (i->max_new_tokens < 0 && !knows_length) return 0;
    const int64_t most = i->max_new_tokens < 0 ? mean : i->max_new_tokens;
    work += i->prompt_tokens + i->n * (knows_length ? std::min(mean, most) : most);
  }
  const auto left = static_cast<double>(std::max<int64_t>(work - pace.running_work, 0));
  return pace.seconds * left / static_cast<double>(done);
}

}  // namespace dsr
