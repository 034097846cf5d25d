#include "tools/input_history.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "deepseek_run/error.h"
#include "tools/io.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

constexpr size_t kEntries = 1000, kMaxLines = 2 * kEntries;
constexpr size_t kMaxEntryBytes = size_t{64} << 10;
constexpr mode_t kFileMode = 0600, kDirectoryMode = 0700;

// The path of the file, or nothing where neither variable is set. The base directory specification
// ignores paths that are not absolute.
std::string place() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return std::string(state) + "/deepseek-run/history";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return "";
  return std::string(home) + "/.local/state/deepseek-run/history";
}

void make_directories(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1))
    ::mkdir(path.substr(0, slash).c_str(), kDirectoryMode);
}

std::string escaped(const std::string& entry) {
  std::string out;
  for (const char c : entry) {
    if (c == '\n' || c == '\\') out += '\\';
    out += c == '\n' ? 'n' : c;
  }
  return out;
}

std::string unescaped(const std::string& line) {
  std::string out;
  for (size_t i = 0; i < line.size(); ++i) {
    const bool escape = line[i] == '\\' && i + 1 < line.size();
    if (escape) ++i;
    out += escape && line[i] == 'n' ? '\n' : line[i];
  }
  return out;
}

bool write_lines(int fd, const std::string& text) {
  return ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

// In place of the file, whole or not at all.
void replace_file(const std::string& path, const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  const std::string temporary = path + "." + std::to_string(::getpid());
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kFileMode);
  if (fd < 0) return;
  const bool whole = write_lines(fd, text);
  ::close(fd);
  if (!whole || ::rename(temporary.c_str(), path.c_str()) != 0) ::unlink(temporary.c_str());
}

}  // namespace

InputHistory::InputHistory() : path_(place()) {}

std::vector<std::string> InputHistory::load() {
  std::vector<std::string> lines;
  std::error_code error;
  if (path_.empty() || !std::filesystem::is_regular_file(path_, error)) return lines;
  try {
    LineReader reader(path_);
    for (std::string line; reader.next(line);)
      if (!line.empty() && invalid_utf8_at(line) == line.npos) lines.push_back(line);
  } catch (const Error&) {  // unreadable: there is no history
    return {};
  }
  const bool long_file = lines.size() > kMaxLines;
  if (lines.size() > kEntries) lines.erase(lines.begin(), lines.end() - kEntries);
  if (long_file) replace_file(path_, lines);
  for (std::string& line : lines) line = unescaped(line);
  return lines;
}

void InputHistory::add(const std::string& entry) {
  if (path_.empty() || entry.size() > kMaxEntryBytes || entry == last_) return;
  last_ = entry;
  make_directories(path_);
  const int fd = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, kFileMode);
  const bool written =
      fd >= 0 && ::fchmod(fd, kFileMode) == 0 && write_lines(fd, escaped(entry) + "\n");
  if (!written) {
    print_line("note: the history " + visible_line(path_) +
               " cannot be written: " + std::strerror(errno));
    path_.clear();
  }
  if (fd >= 0) ::close(fd);
}

}  // namespace dsr
