// A directory of weights: an index, NUL, then two files that it may name, each after its length in
// two bytes.
#include <filesystem>
#include <fstream>

#include "fuzz/fuzz.h"
#include "io/checkpoint.h"

namespace {

// One directory per process, in memory where the machine has such a place.
std::string make_directory() {
  std::string pattern = access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzz_XXXXXX" : "/tmp/fuzz_XXXXXX";
  dsr::fuzz::require(mkdtemp(pattern.data()) != nullptr, "mkdtemp");
  return pattern;
}

struct Directory {
  std::string path = make_directory();
  ~Directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  void write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path + "/" + name, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory;
  static const bool has_config = (directory.write("config.json", "{}"), true);
  dsr::fuzz::require(has_config, "config.json");
  dsr::fuzz::Input in(data, size);
  directory.write("model.safetensors.index.json", in.field());
  const size_t first = static_cast<size_t>(in.byte() << 8) + in.byte();
  directory.write("a.safetensors", in.rest().substr(0, first));
  directory.write("b.safetensors", in.rest().substr(std::min(first, in.rest().size())));
  dsr::fuzz::expect_answer([&] { dsr::Checkpoint::open(directory.path, {}); });
  return 0;
}
