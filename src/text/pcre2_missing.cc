// Pcre2Pattern in a build without PCRE2.
#include "base/error.h"
#include "text/pcre2_pattern.h"

namespace dsr {

struct Pcre2Pattern::Code {};

Pcre2Pattern::Pcre2Pattern(std::string_view pattern, std::string_view place) {
  fail_model(place, ": the pattern ", quoted(pattern),
             " is not one that we know, and this build has no PCRE2 to run it"
             "\n  try: apt-get install libpcre2-dev, and build again");
}
Pcre2Pattern::~Pcre2Pattern() = default;
void Pcre2Pattern::split(std::string_view, const Sink&) const {}

}  // namespace dsr
