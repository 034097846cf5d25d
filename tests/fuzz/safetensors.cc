// A safetensors file: refused, or every tensor lies in it.
#include "io/safetensors.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const dsr::fuzz::MemoryFile file({reinterpret_cast<const char*>(data), size});
  dsr::fuzz::expect_answer([&] { dsr::SafetensorsFile::open(file.path()); });
  return 0;
}
