#include "app/output_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/mapped_file.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace dsr {
namespace {

int64_t files_in(const test::TempDir& directory) {
  int64_t n = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory.path()))
    ++n;
  return n;
}

TEST(OutputFile, ReplacesWhatWasThereAtOnce) {
  const test::TempDir directory;
  const std::string path = directory.write("x", "old");
  OutputFile file(path);
  const std::string large(3'000'000, 'a');
  file.write(large);
  file.write("end");
  EXPECT_EQ(read_file(path, 100), "old");
  file.commit();
  EXPECT_EQ(read_file(path, 1 << 22), large + "end");
  EXPECT_EQ(files_in(directory), 1);
}

TEST(OutputFile, WithoutCommitNothingStays) {
  const test::TempDir directory;
  {
    OutputFile file(directory.file("x"));
    file.write("half");
  }
  EXPECT_EQ(files_in(directory), 0);
}

TEST(OutputFile, DevicesAreWrittenDirectly) {
  OutputFile null("/dev/null");
  null.write("x");
  null.commit();
  OutputFile full("/dev/full");
  full.write("x");
  EXPECT_EQ(test::error_of([&] { full.commit(); }, ErrorKind::kOutput),
            "/dev/full: cannot be written: No space left on device");
  struct stat s {};
  ASSERT_EQ(::stat("/dev/full", &s), 0);
  EXPECT_TRUE(S_ISCHR(s.st_mode));
}

TEST(OutputFile, PlacesThatCannotBeWritten) {
  const test::TempDir directory;
  const std::string path = directory.file("no/such");
  EXPECT_EQ(test::error_of([&] { OutputFile file(path); }, ErrorKind::kOutput),
            path + ": cannot be created: No such file or directory");
  EXPECT_EQ(test::error_of([&] { OutputFile file(directory.string()); }, ErrorKind::kOutput),
            directory.string() + ": cannot be created: Is a directory");
}

}  // namespace
}  // namespace dsr
