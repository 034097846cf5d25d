#include "tools/io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "deepseek_run/error.h"
#include "tools/signals.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

constexpr size_t kReadBytes = size_t{1} << 16;
constexpr size_t kMaxInputBytes = size_t{1} << 30;  // no context is as long
constexpr size_t kMaxLineBytes = size_t{64} << 20;
constexpr mode_t kMode = 0666;  // less the umask

std::string name_of(const std::string& path) {
  return path == "-" ? "standard input" : visible_line(path);
}

[[noreturn]] void fail_input(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kUsage, name_of(path) + ": " + what);
}

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == path.npos) return ".";
  return path.substr(0, slash + 1);
}

// A call that waits and was cut short by a signal: repeat it, unless the signal asks to stop.
bool try_again(ssize_t result) {
  if (result >= 0 || errno != EINTR) return false;
  if (stop_signal() != 0) throw Interrupted();
  return true;
}

// open() waits where the file is a FIFO that nobody has opened at the other end.
int open_file(const std::string& path, int flags) {
  int fd = -1;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, kMode);
  while (try_again(fd));
  return fd;
}

int open_input(const std::string& path) {
  if (path == "-") return STDIN_FILENO;
  const int fd = open_file(path, O_RDONLY);
  if (fd < 0) fail_input(path, std::string("cannot be opened: ") + std::strerror(errno));
  return fd;
}

void close_input(int fd) {
  if (fd != STDIN_FILENO) ::close(fd);
}

// Appends what one read gives; false at the end.
bool read_some(int fd, const std::string& path, std::string& buffer) {
  const size_t before = buffer.size();
  buffer.resize(before + kReadBytes);
  ssize_t n = 0;
  do n = ::read(fd, buffer.data() + before, kReadBytes);
  while (try_again(n));
  const int error = errno;
  buffer.resize(before + static_cast<size_t>(n > 0 ? n : 0));
  if (n < 0) fail_input(path, std::string("cannot be read: ") + std::strerror(error));
  return n > 0;
}

void write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

WarningSink prefixed(const char* prefix, bool quiet) {
  if (quiet) return [](const std::string&) {};
  return [prefix](const std::string& line) { print_line(prefix + line); };
}

}  // namespace

bool same_file(const std::string& input, const std::string& output) {
  struct stat in {
  }, out{};
  const int read = input == "-" ? ::fstat(STDIN_FILENO, &in) : ::stat(input.c_str(), &in);
  return read == 0 && ::stat(output.c_str(), &out) == 0 && S_ISREG(in.st_mode) &&
         in.st_dev == out.st_dev && in.st_ino == out.st_ino;
}

std::string read_all(const std::string& path) {
  const int fd = open_input(path);
  std::string out;
  try {
    while (read_some(fd, path, out))
      if (out.size() > kMaxInputBytes) fail_input(path, "is longer than 1 GiB");
  } catch (...) {
    close_input(fd);
    throw;
  }
  close_input(fd);
  return out;
}

LineReader::LineReader(const std::string& path) : path_(path), fd_(open_input(path)) {}
LineReader::~LineReader() { close_input(fd_); }

bool LineReader::next(std::string& line) {
  size_t end = buffer_.find('\n', at_);
  while (end == buffer_.npos && !ended_) {
    buffer_.erase(0, at_);
    at_ = 0;
    const size_t searched = buffer_.size();
    ended_ = !read_some(fd_, path_, buffer_);
    if (buffer_.size() > kMaxLineBytes) fail_input(path_, "has a line longer than 64 MiB");
    end = buffer_.find('\n', searched);
  }
  if (end == buffer_.npos && at_ == buffer_.size()) return false;
  line = buffer_.substr(at_, end == buffer_.npos ? end : end - at_);
  at_ = end == buffer_.npos ? buffer_.size() : end + 1;
  return true;
}

Output::Output(const std::string& path)
    : path_(path),
      name_(path.empty() || path == "-" ? "standard output" : visible_line(path)),
      fd_(STDOUT_FILENO),
      owned_(!path.empty() && path != "-") {
  if (!owned_) return;
  fd_ = open_file(path, O_WRONLY);
  if (fd_ >= 0) return;
  // It is created when there is something to put into it, which may take an hour to come.
  if (errno != ENOENT || ::access(directory_of(path).c_str(), W_OK | X_OK) != 0) fail_io("created");
}

Output::~Output() {
  if (owned_ && fd_ >= 0) ::close(fd_);
}

void Output::fail_io(const char* what) const {
  throw Error(ErrorKind::kOutput, name_ + ": cannot be " + what + ": " + std::strerror(errno));
}

// What was in the file stays until there is something to put in its place.
void Output::start() {
  if (started_ || !owned_) return;
  if (fd_ < 0) fd_ = open_file(path_, O_WRONLY | O_CREAT);
  if (fd_ < 0) fail_io("created");
  // A device or a pipe says EINVAL.
  if (::ftruncate(fd_, 0) != 0 && errno != EINVAL) fail_io("written");
  started_ = true;
}

void Output::write(std::string_view bytes) {
  start();
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("written");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void Output::close() {
  if (!owned_) return;
  start();
  // What cannot be synced (a device, a pipe) says EINVAL.
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS) fail_io("written");
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) fail_io("written");
}

void print(const std::string& text) { write_all(STDERR_FILENO, visible(text)); }
void print_over(const std::string& line) {
  write_all(STDERR_FILENO, "\r\x1b[K" + visible_line(line));
}
void print_line(const std::string& line) { print(line + "\n"); }
WarningSink warnings(bool quiet) { return prefixed("warning: ", quiet); }
WarningSink notes(bool quiet) { return prefixed("note: ", quiet); }

}  // namespace dsr
