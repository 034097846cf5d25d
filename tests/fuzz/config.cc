// A config.json.
#include "model/config.h"
#include "base/json.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  dsr::fuzz::expect_answer([&] { dsr::parse_config(dsr::parse_json(text, "config.json"), {}); });
  return 0;
}
