#include "tools/values.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "tools/terminal.h"

namespace dsr {
namespace {

template <typename Number>
bool read_whole(std::string_view text, Number& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

// "32K" is 32 * 1024, "32k" is 32 * 1000.
template <typename Number>
bool read_with_unit(std::string_view text, Number& out) {
  Number unit = 1;
  if (!text.empty() && (text.back() == 'K' || text.back() == 'k')) {
    unit = text.back() == 'K' ? 1024 : 1000;
    text.remove_suffix(1);
  }
  return read_whole(text, out) && !__builtin_mul_overflow(out, unit, &out);
}

// What stands between commas.
std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t comma = text.find(','); comma != text.npos; comma = text.find(',')) {
    out.push_back(text.substr(0, comma));
    text.remove_prefix(comma + 1);
  }
  out.push_back(text);
  return out;
}

}  // namespace

void fail_usage(const std::string& message) { throw Error(ErrorKind::kUsage, message); }

void fail_value(std::string_view flag, std::string_view value, const std::string& expected) {
  throw Error(ErrorKind::kUsage,
              std::string(flag) + " is \"" + visible_line(value) + "\", expected " + expected);
}

std::string_view trimmed(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

int64_t parse_int(std::string_view flag, std::string_view text, int64_t min, int64_t max) {
  int64_t value = 0;
  if (!read_with_unit(text, value) || value < min || value > max)
    fail_value(flag, text,
               "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
  return value;
}

std::vector<int64_t> parse_ints(std::string_view flag, std::string_view text, int64_t min,
                                int64_t max) {
  std::vector<int64_t> out;
  for (const std::string_view part : parts_of(text)) out.push_back(parse_int(flag, part, min, max));
  return out;
}

uint64_t parse_uint(std::string_view flag, std::string_view text) {
  uint64_t value = 0;
  if (!read_with_unit(text, value))
    fail_value(flag, text,
               "a whole number from 0 to " + std::to_string(std::numeric_limits<uint64_t>::max()));
  return value;
}

double parse_real(std::string_view flag, std::string_view text) {
  double value = 0;
  if (!read_whole(text, value)) fail_value(flag, text, "a number");
  return value;
}

std::vector<double> parse_reals(std::string_view flag, std::string_view text) {
  std::vector<double> out;
  for (const std::string_view part : parts_of(text)) out.push_back(parse_real(flag, part));
  return out;
}

size_t parse_choice(std::string_view flag, std::string_view text,
                    std::initializer_list<std::string_view> names) {
  std::string list;
  size_t index = 0;
  for (const std::string_view name : names) {
    if (text == name) return index;
    list += (index == 0 ? "" : index + 1 == names.size() ? " or " : ", ") + std::string(name);
    ++index;
  }
  fail_value(flag, text, list);
}

void check_utf8(std::string_view what, std::string_view text, const std::string& hint) {
  if (const size_t at = invalid_utf8_at(text); at != text.npos)
    throw Error(ErrorKind::kUsage,
                std::string(what) + " is not UTF-8 at byte " + std::to_string(at) + hint);
}

std::pair<TokenId, double> parse_logit_bias(std::string_view flag, std::string_view text) {
  const size_t sign = text.find_first_of("+-", 1);
  TokenId id = 0;
  double bias = 0;
  // from_chars reads a minus but no plus.
  if (sign == text.npos || !read_whole(text.substr(0, sign), id) ||
      !read_whole(text.substr(text[sign] == '+' ? sign + 1 : sign), bias))
    fail_value(flag, text, "ID+B or ID-B, for example 1234+1.5");
  return {id, bias};
}

std::vector<TokenId> parse_ids(std::string_view flag, std::string_view text) {
  constexpr std::string_view kSpaces = " \t\r\n", kSeparators = ", \t\r\n";
  std::vector<TokenId> ids;
  const auto skip_blanks = [&] {
    text.remove_prefix(std::min(text.find_first_not_of(kSpaces), text.size()));
  };
  skip_blanks();
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find_first_of(kSeparators));
    TokenId id = 0;
    if (!read_whole(word, id) || id < 0)
      fail_value(flag, word,
                 "token ids from 0 to " + std::to_string(std::numeric_limits<TokenId>::max()));
    ids.push_back(id);
    text.remove_prefix(word.size());
    skip_blanks();
    if (!text.starts_with(',')) continue;  // blanks alone part ids too
    text.remove_prefix(1);
    skip_blanks();
  }
  if (ids.empty()) throw Error(ErrorKind::kUsage, std::string(flag) + " holds no ids");
  return ids;
}

}  // namespace dsr
