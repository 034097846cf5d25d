#include "app/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace dsr {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;
constexpr mode_t kMode = 0666;  // less the umask

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

OutputFile::OutputFile(const std::string& path) : path_(path) {
  struct stat s {};
  const bool special = ::stat(path.c_str(), &s) == 0 && !S_ISREG(s.st_mode);
  if (special) {
    fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    temporary_ = str(path, ".", ::getpid(), ".tmp");
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  }
  if (fd_ < 0) {
    const int error = errno;
    temporary_.clear();
    fail(ErrorKind::kOutput, escaped(path_), ": cannot be created: ", std::strerror(error));
  }
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
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
  if (sync_failed(::fsync(fd_))) fail_io("written");
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) fail_io("written");
  if (temporary_.empty()) return;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail_io("put in place");
  temporary_.clear();
  sync_directory();
}

// The new name is on disk only when its directory is.
void OutputFile::sync_directory() const {
  const int fd = ::open(directory_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // a directory that may be written but not read cannot be synced
  const bool failed = sync_failed(::fsync(fd));
  const int error = errno;
  ::close(fd);
  errno = error;
  if (failed) fail_io("written");
}

}  // namespace dsr
