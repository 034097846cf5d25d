// Finds stop strings in text that arrives in pieces, and gives out nothing that may belong to one.
//
// Knuth, Morris, Pratt 1977, "Fast pattern matching in strings": for each stop string, how many of
// its bytes the text ends with. The longest of these is what must be held back. Time is linear in
// the text for each stop string; how the text is cut into pieces changes nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsr {

class StopMatcher {
 public:
  // Throws Error(kUsage) if one of the strings is empty or not UTF-8.
  explicit StopMatcher(const std::vector<std::string>& stop);

  // The text that is certain after `text`: no stop string begins in it. Whole characters come out
  // if whole characters went in. Nothing after the end of the first stop string has any effect; of
  // two that end together the longer one counts.
  std::string push(std::string_view text);
  // What was held back, once no more text will come: it did not become a stop string.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  struct Pattern {
    std::string text;
    // border[n]: the longest proper prefix of the pattern that its first n bytes end with
    std::vector<size_t> border;
    size_t matched = 0;  // the longest prefix of the pattern that the text ends with

    void advance(char c);
  };
  std::vector<Pattern> patterns_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace dsr
