#include "tools/external_editor.h"

#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "deepseek_run/error.h"
#include "tools/io.h"
#include "tools/signals.h"

namespace dsr {
namespace {

[[noreturn]] void fail_editor(const std::string& what) {
  throw Error(ErrorKind::kUsage, "the editor cannot be run: " + what);
}

// A file that is gone with its owner.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& text) {
    const char* directory = std::getenv("TMPDIR");
    path_ = std::string(directory != nullptr && *directory == '/' ? directory : "/tmp") +
            "/deepseek-run-XXXXXX.txt";
    const int fd = ::mkstemps(path_.data(), 4);  // mode 0600
    if (fd < 0) fail_editor(path_ + ": " + std::strerror(errno));
    const ssize_t n = ::write(fd, text.data(), text.size());
    ::close(fd);
    if (n == static_cast<ssize_t>(text.size())) return;
    ::unlink(path_.c_str());
    fail_editor(path_ + " cannot be written");
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { ::unlink(path_.c_str()); }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Waits for `command FILE`, run by the shell as its words are for the shell to part; its status.
int run_on(const std::string& command, const std::string& path) {
  std::string shell = "sh", flag = "-c", line = command + " \"$1\"", file = path;
  char* const arguments[] = {shell.data(), flag.data(), line.data(),
                             shell.data(), file.data(), nullptr};
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t defaults;
  ::sigemptyset(&defaults);
  ::sigaddset(&defaults, SIGINT);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const IgnoredInterrupts ignored;
  pid_t child = 0;
  const int error = ::posix_spawn(&child, "/bin/sh", nullptr, &attributes, arguments, environ);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) fail_editor(std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR || stop_signal() != 0) return -1;
  return status;
}

}  // namespace

std::string editor_command() {
  for (const char* name : {"VISUAL", "EDITOR"})
    if (const char* value = std::getenv(name); value != nullptr && *value != '\0') return value;
  return "";
}

std::optional<std::string> edit_text(const std::string& command, const std::string& text) {
  const ScratchFile file(text + "\n");
  const int status = run_on(command, file.path());
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
  std::string out = read_all(file.path());
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

}  // namespace dsr
