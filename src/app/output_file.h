// A file that appears whole or not at all.
#pragma once

#include <string>
#include <string_view>

namespace dsr {

// Writes beside the final place and renames in commit(). What exists and is not a regular file (a
// device, a pipe) is written directly. Every step is checked: Error(kOutput) names path and reason.
// Without commit() nothing stays behind.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(std::string_view bytes);  // buffered
  void commit();

 private:
  void flush();
  void sync_directory() const;
  [[noreturn]] void fail_io(const char* what) const;

  std::string path_, temporary_;  // temporary_ is empty where path_ is written directly
  int fd_ = -1;
  std::string buffer_;
};

}  // namespace dsr
