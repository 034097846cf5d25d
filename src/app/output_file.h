// A file that appears whole or not at all.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

namespace dsr {

// Writes a file that has no name yet (where the file system has none such: one beside the final
// place) and puts it in place in commit(), so that nothing stays behind even if the process is
// killed. A file that is replaced keeps its permissions; a symbolic link stays, its target is
// replaced. What exists and is not a regular file (a device, a pipe) is written directly, and so is
// standard output, "-". Every step is checked: Error(kOutput) names path and reason.
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
  [[noreturn]] void fail_io(const char* what) const;

  std::string path_;                   // as it was given
  std::string target_;                 // the same with links at its end followed
  std::string temporary_;              // beside target_; empty where target_ is written directly
  std::optional<mode_t> permissions_;  // of the file that is replaced
  bool is_named_ = false;              // temporary_ exists
  int fd_ = -1;
  std::string buffer_;
};

// Where a path leads that may end in symbolic links, or in one to a file that does not exist yet.
std::string with_links_followed(const std::string& path);

// Puts the name of a new file on disk, as far as its directory can be synced. False: it failed, and
// errno says how.
bool sync_name(const std::string& path);

}  // namespace dsr
