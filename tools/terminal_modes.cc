#include "tools/terminal_modes.h"

#include <unistd.h>

#include "tools/signals.h"
#include "tools/terminal.h"

namespace dsr {

TerminalModes::TerminalModes() : is_terminal_(::tcgetattr(STDIN_FILENO, &found_) == 0) {
  if (is_terminal_)
    restore_terminal_at_exit(STDIN_FILENO, found_, understands_escapes() ? kPasteOff : "");
}

TerminalModes::~TerminalModes() {
  set(Mode::kFound);
  forget_terminal();
}

void TerminalModes::set(Mode mode) {
  mode_ = mode;
  termios modes = found_;
  if (mode == Mode::kQuiet) {
    modes.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
    modes.c_lflag |= NOFLSH;                         // what was typed before Ctrl-C stays
    modes.c_iflag &= ~static_cast<tcflag_t>(ICRNL);  // or CR LF in a paste would be two line breaks
  }
  if (is_terminal_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &modes);
}

}  // namespace dsr
