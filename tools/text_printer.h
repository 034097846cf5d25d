// An answer as text, as it streams.
#pragma once

#include <string>

#include "deepseek_run/answer.h"
#include "tools/io.h"
#include "tools/options.h"
#include "tools/terminal.h"

namespace dsr {

// Writes the pieces of an answer. Reasoning stands between <think> and </think>, dimmed on a
// terminal.
class TextPrinter {
 public:
  TextPrinter(Output& out, ReasoningMode mode, Escape escape);

  void piece(const AnswerPiece& p);
  // The answer ends with a line break, unless there is none because the model failed.
  void end(FinishReason finish);
  // The same with a NUL, which a script splits at: an answer has line breaks of its own.
  void end_with_nul();

 private:
  void reasoning(const std::string& text);
  void write(const std::string& text);

  Output& out_;
  ReasoningMode mode_;
  Escape escape_;
  bool dim_;
  bool any_ = false, in_reasoning_ = false, at_line_start_ = false, errors_used_ = false;
};

}  // namespace dsr
