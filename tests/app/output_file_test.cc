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

TEST(OutputFile, PermissionsStay) {
  const test::TempDir directory;
  const std::string path = directory.write("x", "old");
  for (const mode_t mode : {mode_t{0600}, mode_t{0664}, mode_t{0755}}) {
    ASSERT_EQ(::chmod(path.c_str(), mode), 0);
    OutputFile file(path);
    file.write("new");
    file.commit();
    struct stat s {};
    ASSERT_EQ(::stat(path.c_str(), &s), 0);
    EXPECT_EQ(s.st_mode & 07777, mode);
  }
}

TEST(OutputFile, LinksStayAndTheirTargetIsReplaced) {
  const test::TempDir directory;
  std::filesystem::create_directory(directory.file("d"));
  const std::string target = directory.write("d/x", "old");
  const std::string first = directory.file("first"), second = directory.file("d/second"),
                    dangling = directory.file("dangling");
  std::filesystem::create_symlink("d/second", first);
  std::filesystem::create_symlink("x", second);
  std::filesystem::create_symlink(directory.file("d/fresh"), dangling);
  for (const std::string& link : {first, dangling}) {
    OutputFile file(link);
    file.write("new");
    file.commit();
    EXPECT_TRUE(std::filesystem::is_symlink(link));
  }
  EXPECT_TRUE(std::filesystem::is_symlink(second));
  EXPECT_FALSE(std::filesystem::is_symlink(target));
  EXPECT_EQ(read_file(target, 100), "new");
  EXPECT_EQ(read_file(directory.file("d/fresh"), 100), "new");
  EXPECT_EQ(files_in(directory), 3);

  const std::string loop = directory.file("loop");
  std::filesystem::create_symlink("loop", loop);
  EXPECT_EQ(test::error_of([&] { OutputFile file(loop); }, ErrorKind::kOutput),
            loop + ": cannot be created: Too many levels of symbolic links");
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
