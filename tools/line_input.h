// Lines from whoever chats.
#pragma once

#include <memory>
#include <string>

#include "tools/terminal_modes.h"

namespace dsr {

struct InputLine {
  enum class Event {
    kLine,       // the user pressed Enter
    kPaste,      // text with line breaks was pasted into the line; Enter was not pressed
    kInterrupt,  // Ctrl-C: the line is dropped
    kEnd,        // Ctrl-D, or the end of a file
    kStop        // a signal asks to stop, or the terminal is gone
  };
  Event event;
  std::string text;
};

class LineInput {
 public:
  virtual ~LineInput() = default;
  // `prefill` is in the line to begin with, where can_prefill().
  virtual InputLine read(const std::string& prompt, const std::string& prefill) = 0;
  virtual bool can_prefill() const { return false; }
  // An entry that the up arrow brings back, where there is one.
  virtual void remember(const std::string&) {}
  // Whether more input comes within that time: a line of it was not typed but pasted.
  virtual bool more_within(int milliseconds) const = 0;
  // On the terminal, made safe for it.
  virtual void show(const std::string& text) = 0;
};

// Standard input as it is. `screen`: the descriptor for prompts, or -1 for none.
std::unique_ptr<LineInput> make_plain_input(int screen);
// With editing and history, on libedit; null in a build that has none.
std::unique_ptr<LineInput> make_line_editor(int screen);

// The descriptor that prompts go to: where standard error or output is a terminal; else -1.
int screen_of_chat();
// The better of the two for this terminal. An editor wants it quiet: what is typed while it does
// not read is shown when it does.
std::unique_ptr<LineInput> make_line_input(int screen, TerminalModes& modes);

}  // namespace dsr
