// From lines to messages: blocks between """, pastes, commands.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "tools/line_input.h"

namespace dsr {

struct ChatInput {
  enum class Kind { kText, kCommand, kInterrupt, kEnd, kStop };
  Kind kind;
  std::string text;  // may be empty
};

class MessageReader {
 public:
  // `is_command`: of a line that begins with a slash.
  MessageReader(LineInput& in, std::function<bool(std::string_view)> is_command)
      : in_(in), is_command_(std::move(is_command)) {}

  // The next message. A line that begins with """ opens a block, one that ends with """ closes it.
  // Lines that were pasted are one message, which Enter sends; where a terminal does not say that
  // text is pasted, lines that come at once are.
  ChatInput next(const std::string& prefill = "");

 private:
  bool take_line(std::string line, ChatInput& out);
  bool take_first(std::string line, ChatInput& out);
  void take_paste(const std::string& text);
  void start();

  LineInput& in_;
  std::function<bool(std::string_view)> is_command_;
  std::string held_;  // a command that came right behind a message
  std::string text_, prefill_;
  bool in_block_ = false, has_more_ = false, was_pasted_ = false;
};

}  // namespace dsr
