#include "deepseek_run/logits.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "base/mapped_file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_checkpoint.h"

namespace dsr {
namespace {

TEST(LogitsNpy, HeaderAndRows) {
  const test::TempDir directory;
  test::TinyCheckpoint("v3-bf16").write(directory.string());
  const auto engine = Engine::create({.model_dir = directory.string(), .chunk = 2, .warn = {}});
  const std::vector<TokenId> ids = {3, 1, 4, 1, 5};
  const std::string path = directory.file("logits.npy");
  write_logits_npy(*engine, ids, path);

  const std::string bytes = read_file(path, 1 << 20);
  const std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 224), }";
  EXPECT_EQ(bytes.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_EQ(bytes.substr(10, dict.size()), dict);
  EXPECT_EQ(bytes.find_first_not_of(' ', 10 + dict.size()), 127u);
  EXPECT_EQ(bytes[127], '\n');
  ASSERT_EQ(bytes.size(), 128 + 5 * 224 * sizeof(float));
  engine->logits(ids, [&](int64_t position, std::span<const float> row) {
    const char* stored = bytes.data() + 128 + static_cast<size_t>(position) * row.size_bytes();
    EXPECT_EQ(std::memcmp(stored, row.data(), row.size_bytes()), 0) << position;
  });
}

TEST(LogitsNpy, AFailureLeavesNothing) {
  const test::TempDir directory, out;
  test::TinyCheckpoint("v3-bf16").write(directory.string());
  const auto engine = Engine::create({.model_dir = directory.string(), .warn = {}});
  const std::vector<TokenId> bad = {1, 224};
  EXPECT_EQ(
      test::error_of([&] { write_logits_npy(*engine, bad, out.file("x.npy")); }, ErrorKind::kUsage),
      "token id 224 is not in the vocabulary of 224");
  EXPECT_TRUE(std::filesystem::is_empty(out.path()));
}

}  // namespace
}  // namespace dsr
