#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace dsr {
namespace {

// Closes a descriptor on every way out.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

const char* kind_name(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "not a regular file";
}

// Opens a regular file; O_NONBLOCK so that a FIFO without a writer cannot hang us.
int open_regular(const std::string& path, struct stat* s) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 && errno == ENXIO)  // what open() says of a socket
    fail_model(escaped(path), ": expected a regular file, found a socket");
  if (fd < 0) fail_model(escaped(path), ": cannot be opened: ", std::strerror(errno));
  if (::fstat(fd, s) != 0 || !S_ISREG(s->st_mode)) {
    ::close(fd);
    fail_model(escaped(path), ": expected a regular file, found ", kind_name(s->st_mode));
  }
  return fd;
}

}  // namespace

MappedFile::Identity MappedFile::identity_of(const struct stat& s) {
  return {static_cast<uint64_t>(s.st_dev), static_cast<uint64_t>(s.st_ino),
          static_cast<int64_t>(s.st_size),
          int64_t{s.st_mtim.tv_sec} * 1'000'000'000 + s.st_mtim.tv_nsec};
}

MappedFile MappedFile::open(const std::string& path) {
  struct stat s {};
  const Descriptor fd(open_regular(path, &s));
  MappedFile out;
  out.path_ = path;
  out.size_bytes_ = static_cast<int64_t>(s.st_size);
  out.identity_ = identity_of(s);
  if (out.size_bytes_ > 0) {
    void* p = ::mmap(nullptr, static_cast<size_t>(s.st_size), PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (p == MAP_FAILED) fail_model(escaped(path), ": cannot be mapped: ", std::strerror(errno));
    out.data_ = static_cast<const std::byte*>(p);
  }
  return out;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_bytes_));
}

void MappedFile::check_unchanged() const {
  struct stat s {};
  if (::stat(path_.c_str(), &s) != 0 || !(identity_of(s) == identity_))
    fail_model(escaped(path_), ": changed while it was being used");
}

std::string read_file(const std::string& path, int64_t max_bytes) {
  struct stat s {};
  const Descriptor fd(open_regular(path, &s));
  if (s.st_size > max_bytes)
    fail_model(escaped(path), ": is ", with_commas(s.st_size), " bytes, at most ",
               with_commas(max_bytes), " are accepted");
  std::string out(static_cast<size_t>(s.st_size), '\0');
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::read(fd.get(), out.data() + done, out.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_model(escaped(path), ": cannot be read: ", std::strerror(errno));
    if (n == 0) fail_model(escaped(path), ": became shorter while it was read");
    done += static_cast<size_t>(n);
  }
  return out;
}

}  // namespace dsr
