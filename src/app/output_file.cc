#include "app/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace dsr {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr mode_t kMode = 0666;  // less the umask
constexpr mode_t kPermissions = 0777;

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// What cannot be synced (a pipe, some network file systems) says so with one of these.
bool sync_failed(int result) {
  return result != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP;
}

}  // namespace

std::string with_links_followed(const std::string& path) {
  constexpr int kMaxLinks = 40;  // Linux follows no more
  std::filesystem::path out = path;
  for (int n = 0; n < kMaxLinks; ++n) {
    std::error_code error;
    const std::filesystem::path next = std::filesystem::read_symlink(out, error);
    if (error) break;  // it is no link
    out = out.parent_path() / next;
  }
  return out.string();
}

OutputFile::OutputFile(const std::string& path) : path_(path) {
  struct stat s {};
  if (path == "-") {
    path_ = "standard output";
    fd_ = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
  } else if (const bool exists = ::stat(path.c_str(), &s) == 0; exists && !S_ISREG(s.st_mode)) {
    fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  } else if (!exists && errno != ENOENT) {
    fail_io("created");
  } else {
    target_ = with_links_followed(path);
    open_temporary();
    if (exists) permissions_ = s.st_mode & kPermissions;
  }
  if (fd_ < 0) fail_io("created");
}

void OutputFile::open_temporary() {
  temporary_ = str(target_, ".", ::getpid(), ".tmp");
  fd_ = ::open(directory_of(target_).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode);
  if (fd_ >= 0) return;
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  is_named_ = fd_ >= 0;
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (is_named_) ::unlink(temporary_.c_str());
}

void OutputFile::fail_io(const char* what) const {
  fail(ErrorKind::kOutput, escaped(path_), ": cannot be ", what, ": ", std::strerror(errno));
}

void OutputFile::write(std::string_view bytes) {
  buffer_ += bytes;
  if (buffer_.size() >= kBufferBytes) flush();
}

void OutputFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("written");
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
}

void OutputFile::commit() {
  flush();
  if (permissions_ && ::fchmod(fd_, *permissions_) != 0) fail_io("written");
  if (sync_failed(::fsync(fd_))) fail_io("written");
  if (!temporary_.empty()) put_in_place();
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) fail_io("written");
}

void OutputFile::put_in_place() {
  if (!is_named_) {
    ::unlink(temporary_.c_str());  // of a killed process that had our number
    // linkat cannot replace a file, rename can.
    const std::string self = str("/proc/self/fd/", fd_);
    if (::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) != 0)
      fail_io("put in place");
    is_named_ = true;
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_io("put in place");
  is_named_ = false;
  if (!sync_name(target_)) fail_io("written");
}

bool sync_name(const std::string& path) {
  const int fd = ::open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return true;  // a directory that may be written but not read cannot be synced
  const bool failed = sync_failed(::fsync(fd));
  const int error = errno;
  ::close(fd);
  errno = error;
  return !failed;
}

}  // namespace dsr
