#include "tools/text_printer.h"

namespace dsr {

TextPrinter::TextPrinter(Output& out, ReasoningMode mode, Escape escape)
    : out_(out), mode_(mode), escape_(escape), dim_(has_colour(out.fd())) {}

void TextPrinter::piece(const AnswerPiece& p) {
  if (p.text.empty()) return;
  any_ = true;
  if (!p.reasoning) {
    if (in_reasoning_) reasoning("\n</think>\n\n");
    in_reasoning_ = false;
    return write(p.text);
  }
  if (mode_ == ReasoningMode::kShow && !in_reasoning_) reasoning("<think>\n");
  in_reasoning_ = mode_ == ReasoningMode::kShow;
  reasoning(p.text);
}

void TextPrinter::end(FinishReason finish) {
  const bool nothing = finish == FinishReason::kError && !any_;
  if (!at_line_start_ && !nothing) out_.write("\n");
  if (errors_used_) print_line("");
}

void TextPrinter::end_with_nul() {
  out_.write(std::string_view("\0", 1));
  if (errors_used_) print_line("");
}

void TextPrinter::reasoning(const std::string& text) {
  if (mode_ == ReasoningMode::kHide) return;
  if (mode_ == ReasoningMode::kSeparate) {
    errors_used_ = true;
    return print(text);
  }
  at_line_start_ = text.back() == '\n';
  const std::string shown = visible(text, escape_);
  out_.write(dim_ ? dimmed(shown) : shown);
}

void TextPrinter::write(const std::string& text) {
  at_line_start_ = text.back() == '\n';
  out_.write(visible(text, escape_));
}

}  // namespace dsr
