// A pre-tokenizer pattern that has no matcher of its own, run by PCRE2 under limits. The regular
// expressions of a tokenizer.json are written for Oniguruma's Ruby syntax: what PCRE2 would read in
// another way is rewritten or refused, never guessed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace dsr {

class Pcre2Pattern {
 public:
  using Sink = std::function<void(std::string_view piece)>;

  // Throws Error(kModel) that names `place` and the pattern if it cannot be used.
  Pcre2Pattern(std::string_view pattern, std::string_view place);
  ~Pcre2Pattern();
  Pcre2Pattern(const Pcre2Pattern&) = delete;
  Pcre2Pattern& operator=(const Pcre2Pattern&) = delete;

  // Gives the matches in `text` and the gaps between them to `sink`, in order. Bytes that are not
  // UTF-8 end the text before them and belong to a gap. Throws Error(kModel) that names the pattern
  // if a match takes more steps or memory than any honest pattern needs.
  void split(std::string_view text, const Sink& sink) const;

 private:
  struct Code;
  std::string name_;  // place and pattern, for messages
  std::unique_ptr<Code> code_;
};

// The pattern in PCRE2's syntax, with the same meaning. Throws Error(kModel) with `name` in front
// if it uses what the two read differently.
std::string pcre2_syntax(std::string_view pattern, std::string_view name);

}  // namespace dsr
