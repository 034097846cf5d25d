#include "tools/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "tools/terminal.h"

namespace dsr {
namespace {

constexpr int kGraceUs = 400'000;
constexpr int kModelExit = 3;
constexpr int64_t kNsPerS = 1'000'000'000;

volatile sig_atomic_t g_stop_signal = 0;
volatile sig_atomic_t g_in_record = 0;
volatile sig_atomic_t g_time_is_up = 0;

// Of a chat.
volatile sig_atomic_t g_interrupted = 0;
volatile sig_atomic_t g_terminal_changed = 0;
timespec g_last_interrupt{};  // the handler's own
volatile sig_atomic_t g_terminal_fd = -1;
const termios* g_terminal_modes = nullptr;
const char* g_terminal_bytes = nullptr;

[[noreturn]] void leave(int code) {
  if (g_terminal_fd >= 0) {
    const ssize_t ignored = ::write(g_terminal_fd, g_terminal_bytes, std::strlen(g_terminal_bytes));
    static_cast<void>(ignored);
    ::tcsetattr(g_terminal_fd, TCSANOW, g_terminal_modes);
  }
  ::_exit(code);
}

void set_timer(int us) {
  itimerval timer{};
  timer.it_value.tv_usec = us;
  ::setitimer(ITIMER_REAL, &timer, nullptr);
}

void on_stop(int signal) {
  if (g_stop_signal != 0) leave(128 + signal);
  g_stop_signal = signal;
  set_timer(kGraceUs);
}

void on_interrupt(int signal) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const timespec& last = g_last_interrupt;
  const bool soon = last.tv_sec != 0 &&
                    (now.tv_sec - last.tv_sec) * kNsPerS + now.tv_nsec - last.tv_nsec < kNsPerS;
  g_last_interrupt = now;
  g_interrupted = 1;
  if (soon || g_stop_signal != 0) on_stop(signal);
}

void on_terminal_change(int) { g_terminal_changed = 1; }

void on_timer(int) {
  if (g_in_record == 0) leave(128 + g_stop_signal);
  g_time_is_up = 1;
}

// --- SIGBUS: only calls that are safe in a signal handler --------------------------------------

// A line of text of limited length, without allocation.
struct FixedLine {
  char text[4600];
  size_t size = 0;

  void add(char c) {
    if (size < sizeof text) text[size++] = c;
  }
  void add(const char* s) {
    while (*s != '\0') add(*s++);
  }
  void add(uint64_t value) {
    char digits[20];
    int n = 0;
    do digits[n++] = static_cast<char>('0' + value % 10);
    while ((value /= 10) > 0);
    while (n > 0) add(digits[--n]);
  }
};

const char* skip_spaces(const char* s) {
  while (*s == ' ') ++s;
  return s;
}

const char* read_hex(const char* s, uint64_t& value) {
  value = 0;
  for (;; ++s) {
    const int digit = *s >= '0' && *s <= '9'   ? *s - '0'
                      : *s >= 'a' && *s <= 'f' ? *s - 'a' + 10
                                               : -1;
    if (digit < 0) return s;
    value = value * 16 + static_cast<uint64_t>(digit);
  }
}

// "begin-end perms offset device inode   path", the form of /proc/self/maps. If it holds `address`
// and is a file: the path and how far into the file the address is.
const char* file_at(const char* line, uint64_t address, uint64_t& offset) {
  uint64_t begin = 0, end = 0, start = 0;
  const char* s = read_hex(line, begin);
  if (*s != '-') return nullptr;
  s = read_hex(s + 1, end);
  if (address < begin || address >= end) return nullptr;
  s = skip_spaces(s);
  while (*s != ' ' && *s != '\0') ++s;  // permissions
  s = read_hex(skip_spaces(s), start);
  offset = start + (address - begin);
  return std::strchr(s, '/');  // device and inode hold none
}

// Finds the mapped file that holds `address` and describes it in `message`.
bool describe(uint64_t address, FixedLine& message) {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char line[4500];
  size_t size = 0;
  char c = 0;
  bool found = false;
  while (!found && ::read(fd, &c, 1) == 1) {
    if (c != '\n') {
      if (size + 1 < sizeof line) line[size++] = c;
      continue;
    }
    line[size] = '\0';
    size = 0;
    uint64_t offset = 0;
    const char* path = file_at(line, address, offset);
    if (path == nullptr) continue;
    found = true;
    message.add("error: ");
    for (std::string_view rest = path; !rest.empty();) {
      const std::string_view character = rest.substr(0, std::max<size_t>(utf8_length(rest), 1));
      rest.remove_prefix(character.size());
      const bool shown = utf8_length(character) > 0 && !is_control(character);
      for (const char byte : shown ? character : "?") message.add(byte);
    }
    message.add(": cannot be read at byte ");
    message.add(offset);
    message.add(": the file became shorter while it was used, or its disk failed\n");
  }
  ::close(fd);
  return found;
}

void on_bus_error(int, siginfo_t* info, void*) {
  FixedLine message;
  if (describe(reinterpret_cast<uint64_t>(info->si_addr), message)) {
    if (::write(STDERR_FILENO, message.text, message.size) < 0) leave(kModelExit);
    leave(kModelExit);
  }
  ::signal(SIGBUS, SIG_DFL);  // not a file: a bug of ours; the access repeats and ends the process
}

void install(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  ::sigaction(signal, &action, nullptr);
}

void install_for_chat(void (*interrupt)(int), void (*change)(int)) {
  struct sigaction before {};
  ::sigaction(SIGINT, nullptr, &before);
  if (before.sa_handler != SIG_IGN) install(SIGINT, interrupt);
  install(SIGWINCH, change);
  install(SIGCONT, change);
}

// Unless whoever started us wants it ignored (nohup, a shell's background job).
void install_stop(int signal) {
  struct sigaction before {};
  ::sigaction(signal, nullptr, &before);
  if (before.sa_handler != SIG_IGN) install(signal, on_stop);
}

}  // namespace

void install_signal_handlers() {
  install_stop(SIGINT);
  install_stop(SIGTERM);
  install_stop(SIGHUP);
  install(SIGALRM, on_timer);
  install(SIGPIPE, SIG_DFL);
  install(SIGXFSZ,
          SIG_IGN);  // a write beyond the limit fails instead, and is answered like a full disk
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

int stop_signal() { return g_stop_signal; }
void acknowledge_stop() { set_timer(0); }

WholeRecord::WholeRecord() { g_in_record = 1; }
WholeRecord::~WholeRecord() {
  g_in_record = 0;
  if (g_time_is_up != 0) leave(128 + g_stop_signal);
}

ChatSignals::ChatSignals() { install_for_chat(on_interrupt, on_terminal_change); }
ChatSignals::~ChatSignals() { install_for_chat(on_stop, SIG_DFL); }

bool take_interrupt() {
  const bool taken = g_interrupted != 0;
  g_interrupted = 0;
  return taken;
}

bool take_terminal_change() {
  const bool taken = g_terminal_changed != 0;
  g_terminal_changed = 0;
  return taken;
}

IgnoredInterrupts::IgnoredInterrupts() {
  struct sigaction before {};
  ::sigaction(SIGINT, nullptr, &before);
  before_ = before.sa_handler;
  install(SIGINT, SIG_IGN);
}
IgnoredInterrupts::~IgnoredInterrupts() { install(SIGINT, before_); }

void restore_terminal_at_exit(int fd, const termios& modes, const char* bytes) {
  g_terminal_modes = &modes;
  g_terminal_bytes = bytes;
  g_terminal_fd = fd;
}

void forget_terminal() { g_terminal_fd = -1; }

}  // namespace dsr
