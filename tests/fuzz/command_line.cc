// A command line: arguments, each ended by NUL.
#include "fuzz/fuzz.h"
#include "tools/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dsr::fuzz::Input in(data, size);
  std::vector<std::string> arguments;
  while (!in.empty() && arguments.size() < 64) arguments.emplace_back(in.field());
  dsr::fuzz::expect_answer([&] { dsr::parse_options(arguments); });
  return 0;
}
