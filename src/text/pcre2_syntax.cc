// From Oniguruma's Ruby syntax to that of PCRE2.
#include <algorithm>

#include "base/error.h"
#include "text/pcre2_pattern.h"

namespace dsr {
namespace {

constexpr std::string_view kSpaces = R"(\t-\r\x{85}\p{Z})";  // \s: White_Space
// \w: letters, marks, digits, Pc, letter numbers, letters in circles and squares, and of the other
// numbers the six of Latin-1 (found by asking that library for every character)
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\xB2\xB3\xB9\xBC-\xBE\x{24B6}-\x{24E9}\x{1F130}-\x{1F149}\x{1F150}-\x{1F169})"
    R"(\x{1F170}-\x{1F189})";

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view name) : rest_(pattern), name_(name) {}

  std::string run() {
    while (!rest_.empty()) {
      const bool after_interval = after_interval_;
      after_interval_ = false;
      if (rest_[0] == '\\') {
        escape();
      } else if (in_class_) {
        class_character();
      } else if (rest_[0] == '[') {
        open_class();
      } else if (rest_.starts_with("(?")) {
        group();
      } else if (rest_.starts_with("{,")) {
        refuse("{,");  // {0,n}; here a literal
      } else if (after_interval && rest_[0] == '+') {
        refuse("}+");  // repeats an interval; here it would be possessive
      } else {
        after_interval_ = rest_[0] == '}';
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail_model(name_, " uses ", quoted(what),
               ", which PCRE2 reads differently from the library that it was written for");
  }
  void copy(size_t n) {
    out_ += rest_.substr(0, n);
    rest_.remove_prefix(std::min(n, rest_.size()));
  }

  // A class of ours for \s, \w and their complements.
  void put_class(std::string_view members, bool complement) {
    if (in_class_ && complement) refuse(rest_.substr(0, 2));
    if (in_class_)
      out_ += members;
    else
      out_ += str(complement ? "[^" : "[", members, "]");
    rest_.remove_prefix(2);
  }

  void escape() {
    if (rest_.size() < 2) return copy(1);
    const char c = rest_[1];
    if (c == 's' || c == 'S') return put_class(kSpaces, c == 'S');
    if (c == 'w' || c == 'W') return put_class(kWord, c == 'W');
    // Characters, digits, properties, the ends of the text; any other letter or digit is a word of
    // one dialect.
    const bool word = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (word && std::string_view("rntfvedDpPAz").find(c) == std::string_view::npos)
      refuse(rest_.substr(0, 2));
    if (c == 'v') {  // one character there, a class here
      out_ += "\\x0b";
      rest_.remove_prefix(2);
      return;
    }
    const bool braces = (c | 0x20) == 'p' && rest_.size() > 2 && rest_[2] == '{';
    copy(braces ? std::min(rest_.find('}'), rest_.size() - 1) + 1 : 2);
  }

  void open_class() {
    in_class_ = true;
    copy(rest_.starts_with("[^") ? 2 : 1);
    if (rest_.starts_with(']')) refuse("[]");
  }

  void class_character() {
    if (rest_[0] == '[') refuse("[...[");  // a class in a class, or [:name:]
    if (rest_.starts_with("&&")) refuse("&&");
    if (rest_[0] == ']') in_class_ = false;
    copy(1);
  }

  void group() {
    for (const std::string_view known :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"}) {
      if (rest_.starts_with(known)) return copy(known.size());
    }
    refuse(rest_.substr(0, 3));
  }

  std::string_view rest_, name_;
  std::string out_;
  bool in_class_ = false, after_interval_ = false;
};

}  // namespace

std::string pcre2_syntax(std::string_view pattern, std::string_view name) {
  return Translator(pattern, name).run();
}

}  // namespace dsr
