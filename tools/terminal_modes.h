// How the terminal that we read from treats what is typed.
#pragma once

#include <termios.h>

namespace dsr {

// Remembers the modes as they are. They are back at the end, and if a signal ends the process.
class TerminalModes {
 public:
  enum class Mode {
    kFound,  // as it was: the terminal edits lines and shows what is typed
    kQuiet   // what is typed waits, unseen; Ctrl-C is still a signal
  };
  TerminalModes();
  TerminalModes(const TerminalModes&) = delete;
  TerminalModes& operator=(const TerminalModes&) = delete;
  ~TerminalModes();

  void set(Mode mode);

  // Another mode for as long as it lives.
  class Scope {
   public:
    Scope(TerminalModes& modes, Mode mode) : modes_(modes), before_(modes.mode_) {
      modes_.set(mode);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    ~Scope() { modes_.set(before_); }

   private:
    TerminalModes& modes_;
    Mode before_;
  };

 private:
  termios found_{};
  bool is_terminal_;
  Mode mode_ = Mode::kFound;
};

}  // namespace dsr
