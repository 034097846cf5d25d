// Bytes of a terminal or a pipe, and what may come in their place.
#pragma once

#include <array>
#include <cstddef>

namespace dsr {

enum class InputEvent {
  kByte,
  kEnd,             // of the input
  kInterrupt,       // Ctrl-C
  kTerminalChange,  // of its size, or we were in the background
  kStop             // a signal asks to stop, or the terminal is gone
};

class InputBytes {
 public:
  explicit InputBytes(int fd) : fd_(fd) {}

  // Waits for one. Signals are seen the moment they come.
  InputEvent next(char& byte);
  // Whether input is there already, or comes within that time.
  bool more_within(int milliseconds) const;
  bool is_terminal() const;

 private:
  InputEvent fill();

  int fd_;
  std::array<char, 4096> buffer_{};
  size_t at_ = 0, size_ = 0;
};

// Whether whoever showed this terminal is gone.
bool is_hung_up(int fd);

}  // namespace dsr
