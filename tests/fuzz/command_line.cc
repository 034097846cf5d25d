// A configuration file, a variable DEEPSEEK_RUN_<...>, and a command line; each part ended by NUL.
#include "fuzz/fuzz.h"
#include "tools/options.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dsr::fuzz::Input in(data, size);
  const std::string file(in.field());
  dsr::Surroundings around;
  around.environment = {"HOME=/", "DEEPSEEK_RUN_" + std::string(in.field())};
  around.read_file = [&](const std::string&) { return file; };
  std::vector<std::string> arguments;
  while (!in.empty() && arguments.size() < 64) arguments.emplace_back(in.field());
  dsr::fuzz::expect_answer([&] { dsr::parse_options(arguments, around); });
  return 0;
}
