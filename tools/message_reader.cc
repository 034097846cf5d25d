#include "tools/message_reader.h"

#include <algorithm>
#include <utility>

namespace dsr {
namespace {

constexpr const char* kPrompt = "> ";
constexpr const char* kMorePrompt = ". ";
constexpr std::string_view kQuotes = "\"\"\"";
// A person needs longer from one Enter to the next key.
constexpr int kPasteGapMs = 25;
// Of a long paste the beginning is shown.
constexpr size_t kShownLines = 20;

std::string without_last_break(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

std::string_view without_trailing_blanks(std::string_view text) {
  return text.substr(0, text.find_last_not_of(" \t") + 1);
}

}  // namespace

void MessageReader::start() {
  text_.clear();
  in_block_ = has_more_ = was_pasted_ = false;
}

ChatInput MessageReader::next(const std::string& prefill) {
  start();
  if (!held_.empty()) return {ChatInput::Kind::kCommand, std::exchange(held_, {})};
  prefill_ = prefill;
  while (true) {
    InputLine line =
        in_.read(in_block_ || has_more_ ? kMorePrompt : kPrompt, std::exchange(prefill_, {}));
    switch (line.event) {
      case InputLine::Event::kInterrupt:
        return {ChatInput::Kind::kInterrupt, ""};
      case InputLine::Event::kStop:
        return {ChatInput::Kind::kStop, ""};
      case InputLine::Event::kEnd:
        // Where the input ends inside a block, what there is of it is a message.
        if (text_.empty()) return {ChatInput::Kind::kEnd, ""};
        return {ChatInput::Kind::kText, without_last_break(std::move(text_))};
      case InputLine::Event::kPaste:
        take_paste(line.text);
        break;
      case InputLine::Event::kLine:
        if (ChatInput out; take_line(std::move(line.text), out)) return out;
        break;
    }
  }
}

// Whole lines are text; what follows the last line break can still be edited.
void MessageReader::take_paste(const std::string& text) {
  const size_t last = text.rfind('\n') + 1;
  const std::string whole = text.substr(0, last);
  size_t shown = 0, lines = 0;
  for (size_t at = 0; at < whole.size(); ++lines) {
    const size_t end = whole.find('\n', at) + 1;
    if (lines < kShownLines) {
      const bool first = lines == 0;  // its prompt is there
      in_.show((first ? "" : kMorePrompt) + whole.substr(at, end - at));
      ++shown;
    }
    at = end;
  }
  if (lines > shown)
    in_.show(std::string(kMorePrompt) + "... " + std::to_string(lines - shown) + " more lines\n");
  text_ += whole;
  prefill_ = text.substr(last);
  has_more_ = was_pasted_ = true;
}

bool MessageReader::take_first(std::string line, ChatInput& out) {
  if (line.starts_with(kQuotes)) {
    std::string_view rest = std::string_view(line).substr(kQuotes.size());
    const std::string_view end = without_trailing_blanks(rest);
    if (end.ends_with(kQuotes)) {
      out = {ChatInput::Kind::kText, std::string(end.substr(0, end.size() - kQuotes.size()))};
      return true;
    }
    in_block_ = true;
    if (!rest.empty()) text_ = std::string(rest) + "\n";
    return false;
  }
  if (line.starts_with('/') && line.find('\n') == line.npos) {
    out = {ChatInput::Kind::kCommand, std::move(line)};
    return true;
  }
  text_ = std::move(line) + "\n";
  has_more_ = in_.more_within(kPasteGapMs);
  if (!has_more_) out = {ChatInput::Kind::kText, without_last_break(std::move(text_))};
  return !has_more_;
}

// Whether the message is whole.
bool MessageReader::take_line(std::string line, ChatInput& out) {
  if (!in_block_ && !has_more_) return take_first(std::move(line), out);
  if (in_block_) {
    const std::string_view end = without_trailing_blanks(line);
    if (!end.ends_with(kQuotes)) {
      text_ += line + "\n";
      return false;
    }
    text_ += end.substr(0, end.size() - kQuotes.size());
    out = {ChatInput::Kind::kText, without_last_break(std::move(text_))};
    return true;
  }
  const bool is_command = !was_pasted_ && line.starts_with('/') && is_command_(line);
  if (is_command) {
    held_ = std::move(line);
  } else {
    text_ += line + "\n";
    if (!was_pasted_ && in_.more_within(kPasteGapMs)) return false;
  }
  text_.erase(text_.find_last_not_of('\n') + 1);
  out = {ChatInput::Kind::kText, std::move(text_)};
  return true;
}

}  // namespace dsr
