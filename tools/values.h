// Values of flags, read without regard to the locale. Errors are Error(kUsage) and name the flag,
// what was given and what is expected.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deepseek_run/error.h"
#include "deepseek_run/tokenizer.h"

namespace dsr {

[[noreturn]] void fail_usage(const std::string& message);
[[noreturn]] void fail_value(std::string_view flag, std::string_view value,
                             const std::string& expected);

inline constexpr std::string_view kBlanks = " \t";
// Without the blanks around it.
std::string_view trimmed(std::string_view text);
// A whole number; "32K" is 32768 and "32k" is 32000.
int64_t parse_int(std::string_view flag, std::string_view text, int64_t min, int64_t max);
// Whole numbers between commas, at least one.
std::vector<int64_t> parse_ints(std::string_view flag, std::string_view text, int64_t min,
                                int64_t max);
// A whole number of 64 bits, in the same forms.
uint64_t parse_uint(std::string_view flag, std::string_view text);
double parse_real(std::string_view flag, std::string_view text);
std::vector<double> parse_reals(std::string_view flag, std::string_view text);
// One of the names; its index.
size_t parse_choice(std::string_view flag, std::string_view text,
                    std::initializer_list<std::string_view> names);
// Fails where `text` is not UTF-8, naming the byte; `hint` may follow on a line of its own.
void check_utf8(std::string_view what, std::string_view text, const std::string& hint = "");
// "15043+1.5" or "15043-100".
std::pair<TokenId, double> parse_logit_bias(std::string_view flag, std::string_view text);
// "1,2,3"; white space and line breaks may stand around and instead of the commas.
std::vector<TokenId> parse_ids(std::string_view flag, std::string_view text);

}  // namespace dsr
