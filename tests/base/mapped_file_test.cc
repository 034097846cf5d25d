#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/timer.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"

namespace dsr {
namespace {

using test::error_of;
using test::TempDir;

// The same refusal from both ways to read a file.
std::string refusal_of(const std::string& path) {
  const std::string mapped = error_of([&] { MappedFile::open(path); });
  EXPECT_EQ(error_of([&] { read_file(path, 1000); }), mapped);
  return mapped;
}

TEST(MappedFileTest, HoldsTheBytes) {
  const TempDir dir;
  const std::string path = dir.write("f", "hello");
  MappedFile a = MappedFile::open(path);
  EXPECT_EQ(a.text(), "hello");
  EXPECT_EQ(a.size_bytes(), 5);
  EXPECT_EQ(a.path(), path);
  const MappedFile b = std::move(a);
  EXPECT_EQ(b.text(), "hello");
  MappedFile empty = MappedFile::open(dir.write("empty", ""));
  EXPECT_EQ(empty.size_bytes(), 0);
  EXPECT_EQ(empty.text(), "");
  empty = MappedFile::open(path);
  EXPECT_EQ(empty.text(), "hello");
}

TEST(MappedFileTest, OnlyRegularFilesAndNeverBlocking) {
  const TempDir dir;
  const Timer timer;
  EXPECT_EQ(refusal_of(dir.file("gone")),
            dir.file("gone") + ": cannot be opened: No such file or directory");
  EXPECT_EQ(refusal_of(dir.string()),
            dir.string() + ": expected a regular file, found a directory");
  ASSERT_EQ(::mkfifo(dir.file("fifo").c_str(), 0600), 0);
  EXPECT_EQ(refusal_of(dir.file("fifo")),
            dir.file("fifo") + ": expected a regular file, found a FIFO");
  EXPECT_EQ(refusal_of("/dev/zero"), "/dev/zero: expected a regular file, found a device");
  EXPECT_EQ(refusal_of(dir.file("a\x1b\n")),
            dir.file("a\\x1b\\x0a") + ": cannot be opened: No such file or directory");
  EXPECT_LT(timer.seconds(), 2);
}

TEST(MappedFileTest, FollowsSymbolicLinks) {
  const TempDir dir;
  dir.write("blob", "content");
  std::filesystem::create_symlink("blob", dir.file("link"));
  EXPECT_EQ(MappedFile::open(dir.file("link")).text(), "content");
  EXPECT_EQ(read_file(dir.file("link"), 7), "content");
}

TEST(MappedFileTest, NoticesThatTheFileIsAnotherOne) {
  const TempDir dir;
  const std::string path = dir.write("f", "12345"),
                    changed = path + ": changed while it was being used";
  const MappedFile file = MappedFile::open(path);
  EXPECT_NO_THROW(file.check_unchanged());
  const auto time = std::filesystem::last_write_time(path);
  std::filesystem::last_write_time(path, time + std::chrono::seconds(1));
  EXPECT_EQ(error_of([&] { file.check_unchanged(); }), changed);
  std::filesystem::last_write_time(path, time);
  EXPECT_NO_THROW(file.check_unchanged());
  dir.write("other", "12345");  // another inode, same size, same time
  std::filesystem::last_write_time(dir.file("other"), time);
  std::filesystem::rename(dir.file("other"), path);
  EXPECT_EQ(error_of([&] { file.check_unchanged(); }), changed);
}

TEST(ReadFileTest, RefusesMoreThanTheCap) {
  const TempDir dir;
  const std::string path = dir.write("f", std::string(1234, 'x'));
  EXPECT_EQ(read_file(path, 1234).size(), 1234u);
  EXPECT_EQ(error_of([&] { read_file(path, 1233); }),
            path + ": is 1,234 bytes, at most 1,233 are accepted");
}

}  // namespace
}  // namespace dsr
