// Building and throwing dsr::Error; checks of our own invariants.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

#include "deepseek_run/error.h"

namespace dsr {

// Concatenates values as text, independent of the process's locale.
template <typename... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  (out << ... << parts);
  return out.str();
}

// Text from outside (a file name, a tensor name, a JSON string) made safe to print: control
// characters and invalid UTF-8 escaped, cut at 200 bytes.
std::string escaped(std::string_view untrusted);
// The same in double quotes. An object and not a function: for a std::string, argument-dependent
// lookup would find std::quoted wherever <iomanip> is included and prefer it, and that escapes
// no control characters.
struct Quoted {
  std::string operator()(std::string_view untrusted) const;
};
inline constexpr Quoted quoted;

// 1234567 -> "1,234,567".
std::string with_commas(int64_t value);
// "31.4 GB", "512 B": decimal units, as disks and model cards count.
std::string human_bytes(int64_t bytes);

// Throws dsr::Error: "place: what it is, what was expected, because".
template <typename... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, str(parts...));
}
template <typename... Parts>
[[noreturn]] void fail_usage(const Parts&... parts) {
  throw Error(ErrorKind::kUsage, str(parts...));
}
template <typename... Parts>
[[noreturn]] void fail_model(const Parts&... parts) {
  throw Error(ErrorKind::kModel, str(parts...));
}
template <typename... Parts>
[[noreturn]] void fail_internal(const Parts&... parts) {
  throw Error(ErrorKind::kInternal, str(parts...));
}

}  // namespace dsr

// For what only a bug of ours can cause. Never for anything that a user or a file can cause.
#define DSR_CHECK(cond, ...)                                                             \
  do {                                                                                   \
    if (!(cond))                                                                         \
      ::dsr::fail_internal("internal error at ", __FILE__, ":", __LINE__, ": expected ", \
                           #cond __VA_OPT__(, " with ", ) __VA_ARGS__);                  \
  } while (0)
