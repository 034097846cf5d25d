// Preloaded into the program (LD_PRELOAD), it stands between it and its files: calls that concern
// files below $DSR_SHIM_DIR are logged, and one of them fails, falls short or is the last.
//
//   DSR_SHIM_LOG   a file; a line "op size path" for each call, `size` of the file after it
//   DSR_SHIM_FAIL  "op:n:what": the n-th call of that op, from 1. what: an errno; "short", half of
//   a
//                  write and ENOSPC for the rest; or "kill", SIGKILL when the call is done
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string path_of(int fd) {
  std::string out(4096, '\0');
  const ssize_t n =
      ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), out.data(), out.size());
  out.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
  return out;
}

bool is_watched(const std::string& path) {
  const std::string directory = variable("DSR_SHIM_DIR");
  return !directory.empty() && path.starts_with(directory);
}

// What is to become of the call: "" nothing special, else DSR_SHIM_FAIL's last part.
std::string fate(std::string_view op) {
  static int counts[4] = {};
  constexpr std::string_view kOps[] = {"write", "fsync", "rename", "linkat"};
  const int count = ++counts[std::find(kOps, kOps + 4, op) - kOps];
  const std::string wanted = std::string(op) + ":" + std::to_string(count) + ":";
  const std::string fail = variable("DSR_SHIM_FAIL");
  return fail.starts_with(wanted) ? fail.substr(wanted.size()) : "";
}

void log_call(std::string_view op, const std::string& path) {
  const std::string log = variable("DSR_SHIM_LOG");
  if (log.empty()) return;
  struct stat s {};
  ::stat(path.c_str(), &s);
  const std::string line = std::string(op) + " " + std::to_string(s.st_size) + " " + path + "\n";
  const int fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  [[maybe_unused]] const long written = ::syscall(SYS_write, fd, line.data(), line.size());
  ::close(fd);
}

// Runs call(short), or what its fate is instead.
template <typename Call>
auto watched(std::string_view op, const std::string& path, const Call& call)
    -> decltype(call(false)) {
  if (!is_watched(path)) return call(false);
  const std::string what = fate(op);
  if (!what.empty() && what.find_first_not_of("0123456789") == what.npos) {
    log_call(op, path);
    errno = std::atoi(what.c_str());
    return -1;
  }
  const auto result = call(what == "short");
  const int error = errno;
  log_call(op, path);
  if (what == "kill") ::raise(SIGKILL);
  errno = error;
  return result;
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t bytes) {
  static std::string full;  // a file that has no room for the rest
  const std::string path = path_of(fd);
  if (!full.empty() && path == full) {
    errno = ENOSPC;
    return -1;
  }
  return watched("write", path, [&](bool falls_short) {
    if (falls_short) full = path;
    return next<ssize_t(int, const void*, size_t)>("write")(fd, data,
                                                            falls_short ? bytes / 2 : bytes);
  });
}

int fsync(int fd) {
  return watched("fsync", path_of(fd), [&](bool) { return next<int(int)>("fsync")(fd); });
}

int rename(const char* from, const char* to) {
  return watched("rename", to,
                 [&](bool) { return next<int(const char*, const char*)>("rename")(from, to); });
}

int linkat(int from_dir, const char* from, int to_dir, const char* to, int flags) {
  return watched("linkat", to, [&](bool) {
    return next<int(int, const char*, int, const char*, int)>("linkat")(from_dir, from, to_dir, to,
                                                                        flags);
  });
}
}
