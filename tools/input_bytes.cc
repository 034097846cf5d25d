#include "tools/input_bytes.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "tools/signals.h"

namespace dsr {
namespace {

// While one lives, the signals that end waiting come only inside ppoll: none slips in between the
// look at its flag and the wait.
class HeldSignals {
 public:
  HeldSignals() {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGCONT}) ::sigaddset(&set, signal);
    ::sigprocmask(SIG_BLOCK, &set, &before_);
  }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;
  ~HeldSignals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

  const sigset_t& before() const { return before_; }

 private:
  sigset_t before_;
};

}  // namespace

InputEvent InputBytes::next(char& byte) {
  if (stop_signal() != 0) return InputEvent::kStop;
  if (at_ == size_)
    if (const InputEvent event = fill(); event != InputEvent::kByte) return event;
  byte = buffer_[at_++];
  return InputEvent::kByte;
}

InputEvent InputBytes::fill() {
  const HeldSignals held;
  while (true) {
    if (stop_signal() != 0) return InputEvent::kStop;
    if (take_interrupt()) return InputEvent::kInterrupt;
    if (take_terminal_change()) return InputEvent::kTerminalChange;
    pollfd wait{fd_, POLLIN, 0};
    if (::ppoll(&wait, 1, nullptr, &held.before()) < 0 && errno != EINTR) return InputEvent::kEnd;
    if (wait.revents == 0) continue;  // a signal
    const ssize_t n = ::read(fd_, buffer_.data(), buffer_.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return is_terminal() && is_hung_up(fd_) ? InputEvent::kStop : InputEvent::kEnd;
    at_ = 0;
    size_ = static_cast<size_t>(n);
    return InputEvent::kByte;
  }
}

bool InputBytes::more_within(int milliseconds) const {
  if (at_ < size_) return true;
  pollfd wait{fd_, POLLIN, 0};
  return ::poll(&wait, 1, milliseconds) > 0 && (wait.revents & POLLIN) != 0;
}

// Not isatty(): it says no of a terminal that is gone.
bool InputBytes::is_terminal() const { return ::isatty(fd_) == 1 || errno == EIO; }

bool is_hung_up(int fd) {
  pollfd wait{fd, POLLIN, 0};
  return ::poll(&wait, 1, 0) > 0 && (wait.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace dsr
