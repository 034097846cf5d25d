#include "sampling/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"

namespace dsr {
namespace {

std::vector<size_t> borders(std::string_view text) {
  std::vector<size_t> border(text.size() + 1, 0);
  size_t length = 0;
  for (size_t n = 2; n <= text.size(); ++n) {
    while (length > 0 && text[length] != text[n - 1]) length = border[length];
    if (text[length] == text[n - 1]) ++length;
    border[n] = length;
  }
  return border;
}

}  // namespace

void StopMatcher::Pattern::advance(char c) {
  while (matched > 0 && text[matched] != c) matched = border[matched];
  if (text[matched] == c) ++matched;
}

StopMatcher::StopMatcher(const std::vector<std::string>& stop) {
  for (const std::string& text : stop) {
    if (text.empty()) fail_usage("a stop string is empty");
    if (const int64_t at = find_invalid_utf8(text); at >= 0)
      fail_usage("stop string ", quoted(text), " is not UTF-8 at byte ", at);
    patterns_.push_back({text, borders(text)});
  }
}

std::string StopMatcher::push(std::string_view text) {
  if (stopped_) return {};
  for (size_t i = 0; i < text.size(); ++i) {
    size_t found = 0;  // bytes of the longest stop string that ends here
    for (Pattern& p : patterns_) {
      p.advance(text[i]);
      if (p.matched == p.text.size()) found = std::max(found, p.matched);
    }
    if (found == 0) continue;
    stopped_ = true;
    held_ += text.substr(0, i + 1);
    held_.resize(held_.size() - found);
    return std::exchange(held_, {});
  }
  held_ += text;
  size_t keep = 0;
  for (const Pattern& p : patterns_) keep = std::max(keep, p.matched);
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::finish() { return stopped_ ? "" : std::exchange(held_, {}); }

}  // namespace dsr
