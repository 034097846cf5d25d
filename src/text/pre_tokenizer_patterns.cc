// Which regular expressions of tokenizer.json files we know.
#include <optional>
#include <string>

#include "base/error.h"
#include "base/utf8.h"
#include "text/pre_tokenizer.h"

namespace dsr {
namespace {

// Patterns are compared after `canonical` wrote line breaks as \r and \n.
constexpr std::string_view kDeepSeekV3Pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)"
    R"(|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Head =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})";
constexpr std::string_view kQwen2Tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::optional<uint32_t> hex4(std::string_view digits) {
  if (digits.size() < 4) return std::nullopt;
  uint32_t value = 0;
  for (const char c : digits.substr(0, 4)) {
    const char lower = static_cast<char>(c | 0x20);
    const bool decimal = c >= '0' && c <= '9';
    if (!decimal && (lower < 'a' || lower > 'f')) return std::nullopt;
    value = value * 16 + static_cast<uint32_t>(decimal ? c - '0' : lower - 'a' + 10);
  }
  if (value >= 0xD800 && value < 0xE000) return std::nullopt;
  return value;
}

// One spelling for one meaning: a line break as \r or \n, \uXXXX as the character.
std::string canonical(std::string_view pattern) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\n' || c == '\r') {
      out += c == '\n' ? "\\n" : "\\r";
    } else if (c != '\\' || i + 1 == pattern.size()) {
      out += c;
    } else if (const auto u = pattern[i + 1] == 'u' ? hex4(pattern.substr(i + 2)) : std::nullopt;
               u && *u >= 0x80) {
      append_utf8(out, *u);
      i += 5;
    } else {
      out += c;
      out += pattern[++i];
    }
  }
  return out;
}

// Reads the patterns of one character set: \s? in front, then \p{X} or [...], then nothing, + or
// {1,3}. Everything else is unknown, above all what regular expression dialects disagree about.
class SetPatternParser {
 public:
  explicit SetPatternParser(std::string_view pattern) : rest_(pattern) {}

  std::optional<PreTokenizerStage> parse() {
    stage_.optional_space = take("\\s?");
    if (!(rest_.starts_with('[') ? parse_brackets() : parse_class())) return std::nullopt;
    if (take("+")) {
      stage_.max_count = kUnlimited;
    } else if (take("{1,3}")) {
      stage_.max_count = 3;
    }
    return rest_.empty() ? std::optional(std::move(stage_)) : std::nullopt;
  }

 private:
  static constexpr int kUnlimited = 0x7FFFFFFF;

  bool take(std::string_view token) {
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  bool parse_class() {
    constexpr std::pair<std::string_view, CharClass> kClasses[] = {
        {"\\p{L}", kLetter},      {"\\p{M}", kMark},   {"\\p{N}", kNumber},
        {"\\p{P}", kPunctuation}, {"\\p{S}", kSymbol}, {"\\s", kSpace}};
    for (const auto& [name, bit] : kClasses) {
      if (!take(name)) continue;
      stage_.set.add_classes(bit);
      return true;
    }
    return false;
  }

  bool parse_brackets() {
    if (!take("[") || rest_.starts_with(']')) return false;
    while (!take("]")) {
      if (parse_class()) continue;
      const std::optional<char32_t> first = parse_char();
      if (!first) return false;
      const std::optional<char32_t> last = take("-") ? parse_char() : first;
      if (!last || *last < *first) return false;
      stage_.set.add_range(*first, *last);
    }
    return true;
  }

  std::optional<char32_t> parse_char() {
    if (take("\\r")) return '\r';
    if (take("\\n")) return '\n';
    const bool escape = take("\\");
    const Utf8Char c = decode_utf8(rest_);
    if (!c.valid) return std::nullopt;
    const bool ascii_word = c.code_point < 0x80 && std::isalnum(static_cast<int>(c.code_point));
    if (escape ? ascii_word : std::u32string_view(U"[]^-\\&").find(c.code_point) != npos)
      return std::nullopt;
    rest_.remove_prefix(static_cast<size_t>(c.bytes));
    return c.code_point;
  }

  static constexpr size_t npos = std::u32string_view::npos;
  std::string_view rest_;
  PreTokenizerStage stage_;
};

}  // namespace

PreTokenizerStage parse_stage_pattern(std::string_view pattern, std::string_view place) {
  using Kind = PreTokenizerStage::Kind;
  const std::string text = canonical(pattern);
  if (text == "\\s+$") return {.kind = Kind::kTrailingSpace, .set = {}};
  if (text == kDeepSeekV3Pattern) return {.kind = Kind::kDeepSeekV3, .set = {}};
  if (text == str(kQwen2Head, kQwen2Tail)) return {.kind = Kind::kQwen2, .set = {}, .max_count = 1};
  if (text == str(kQwen2Head, "{1,3}", kQwen2Tail))
    return {.kind = Kind::kQwen2, .set = {}, .max_count = 3};
  if (auto stage = SetPatternParser(text).parse()) return std::move(*stage);
  return {.kind = Kind::kPcre2,
          .set = {},
          .pattern = std::make_shared<const Pcre2Pattern>(text, place)};
}

}  // namespace dsr
