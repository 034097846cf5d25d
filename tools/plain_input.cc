#include <unistd.h>

#include <string_view>

#include "tools/input_bytes.h"
#include "tools/line_input.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

void write_to(int fd, std::string_view text) {
  while (fd >= 0 && !text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n <= 0) return;  // prompts may get lost
    text.remove_prefix(static_cast<size_t>(n));
  }
}

// The terminal itself edits the line, or nobody does.
class PlainInput : public LineInput {
 public:
  explicit PlainInput(int screen) : bytes_(STDIN_FILENO), screen_(screen) {}

  InputLine read(const std::string& prompt, const std::string&) override {
    write_to(screen_, prompt);
    InputLine out{InputLine::Event::kLine, ""};
    char byte = 0;
    while (true) {
      switch (bytes_.next(byte)) {
        case InputEvent::kByte:
          if (byte == '\n') {
            if (out.text.ends_with('\r')) out.text.pop_back();
            return out;
          }
          out.text += byte;
          break;
        case InputEvent::kTerminalChange:
          break;
        case InputEvent::kInterrupt:
          write_to(screen_, "\n");
          return {InputLine::Event::kInterrupt, ""};
        case InputEvent::kStop:
          return {InputLine::Event::kStop, ""};
        case InputEvent::kEnd:
          if (!out.text.empty()) return out;
          write_to(screen_, "\n");
          return {InputLine::Event::kEnd, ""};
      }
    }
  }

  bool more_within(int milliseconds) const override {
    return screen_ >= 0 && bytes_.more_within(milliseconds);
  }
  void show(const std::string& text) override { write_to(screen_, visible(text)); }

 private:
  InputBytes bytes_;
  int screen_;
};

}  // namespace

std::unique_ptr<LineInput> make_plain_input(int screen) {
  return std::make_unique<PlainInput>(screen);
}

int screen_of_chat() {
  if (!is_terminal(STDIN_FILENO)) return -1;
  return is_terminal(STDERR_FILENO)   ? STDERR_FILENO
         : is_terminal(STDOUT_FILENO) ? STDOUT_FILENO
                                      : -1;
}

std::unique_ptr<LineInput> make_line_input(int screen, TerminalModes& modes) {
  if (screen < 0 || !understands_escapes()) return make_plain_input(screen);
  modes.set(TerminalModes::Mode::kQuiet);
  if (std::unique_ptr<LineInput> editor = make_line_editor(screen)) return editor;
  modes.set(TerminalModes::Mode::kFound);
  return make_plain_input(screen);
}

}  // namespace dsr
