// A file that appears whole or not at all.
#pragma once

#include <string>
#include <string_view>

namespace dsr {

// Writes a file that has no name yet (where the file system has none such: one beside the final
// place) and puts it in place in commit(), so that nothing stays behind even if the process is
// killed. What exists and is not a regular file (a device, a pipe) is written directly. Every step
// is checked: Error(kOutput) names path and reason.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  void write(std::string_view bytes);  // buffered
  void commit();

 private:
  void open_temporary();
  void flush();
  void put_in_place();
  void sync_directory() const;
  [[noreturn]] void fail_io(const char* what) const;

  std::string path_;
  std::string temporary_;  // beside path_; empty where path_ is written directly
  bool is_named_ = false;  // temporary_ exists
  int fd_ = -1;
  std::string buffer_;
};

}  // namespace dsr
