// A read-only memory map of a regular file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

struct stat;

namespace dsr {

// Owns the map and the file's identity at the time it was opened. Symbolic links are followed; what
// they lead to must be a regular file (a FIFO or device is refused without blocking).
class MappedFile {
 public:
  // Throws Error(kModel) naming the path and the reason.
  static MappedFile open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MappedFile();

  const std::string& path() const { return path_; }
  const std::byte* data() const { return data_; }
  int64_t size_bytes() const { return size_bytes_; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(data_), static_cast<size_t>(size_bytes_)};
  }

  // Throws Error(kModel) if the file at `path` is no longer the one that was opened (size, time of
  // modification or inode).
  void check_unchanged() const;

 private:
  struct Identity {
    uint64_t device = 0, inode = 0;
    int64_t size_bytes = 0, mtime_ns = 0;
    bool operator==(const Identity&) const = default;
  };
  static Identity identity_of(const struct stat& s);

  void swap(MappedFile& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    std::swap(identity_, other.identity_);
  }

  std::string path_;
  const std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
  Identity identity_;
};

// The whole of a regular file of at most `max_bytes`; Error(kModel) otherwise.
std::string read_file(const std::string& path, int64_t max_bytes);

}  // namespace dsr
