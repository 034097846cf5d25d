// ReasoningSplitter: see deepseek_run/chat.h.
#include <algorithm>

#include "deepseek_run/chat.h"

namespace dsr {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kClose = "</think>";

// How many bytes at the end of `text` may be the beginning of `tag`.
size_t partial_tag(std::string_view text, std::string_view tag) {
  for (size_t n = std::min(text.size(), tag.size() - 1); n > 0; --n) {
    if (text.ends_with(tag.substr(0, n))) return n;
  }
  return 0;
}

bool is_white_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

}  // namespace

std::vector<ReasoningSplitter::Piece> ReasoningSplitter::push(std::string_view text) {
  pending_ += text;
  std::vector<Piece> out;
  while (step(out, /*at_end=*/false)) {
  }
  return out;
}

std::vector<ReasoningSplitter::Piece> ReasoningSplitter::finish() {
  std::vector<Piece> out;
  while (step(out, /*at_end=*/true)) {
  }
  return out;
}

// Advances as far as one decision goes; false if nothing more is certain.
bool ReasoningSplitter::step(std::vector<Piece>& out, bool at_end) {
  if (pending_.empty()) return false;
  switch (state_) {
    case State::kStart:
    case State::kOpened:
      return step_before_text(at_end);
    case State::kReasoning:
      return step_reasoning(out, at_end);
    case State::kClosed:
      pending_.erase(0, std::min(pending_.find_first_not_of('\n'), pending_.size()));
      if (!pending_.empty()) state_ = State::kAnswer;
      return !pending_.empty();
    case State::kAnswer:
      emit(out, pending_.size(), /*reasoning=*/false);
      return false;
  }
  return false;
}

// Before any text: an opening tag may come. A model that was given <think> in its prompt may write
// it once more.
bool ReasoningSplitter::step_before_text(bool at_end) {
  const bool opened = state_ == State::kOpened;
  const size_t first = static_cast<size_t>(
      std::find_if_not(pending_.begin(), pending_.end(), is_white_space) - pending_.begin());
  const std::string_view rest = std::string_view(pending_).substr(first);
  if (rest.starts_with(kOpen)) {
    pending_.erase(0, first + kOpen.size());
    state_ = State::kOpened;
    return true;
  }
  if (kOpen.starts_with(rest) && !at_end) return false;
  if (opened) pending_.erase(0, std::min(pending_.find_first_not_of('\n'), pending_.size()));
  state_ = opened ? State::kReasoning : State::kAnswer;
  return true;
}

bool ReasoningSplitter::step_reasoning(std::vector<Piece>& out, bool at_end) {
  const size_t tag = pending_.find(kClose);
  size_t end = tag != std::string::npos ? tag
               : at_end                 ? pending_.size()
                                        : pending_.size() - partial_tag(pending_, kClose);
  const size_t after = tag != std::string::npos ? tag + kClose.size() : end;
  const size_t text_end = end;
  while (end > 0 && pending_[end - 1] == '\n') --end;  // they may belong to the closing tag
  if (at_end && tag == std::string::npos) end = text_end;
  emit(out, end, /*reasoning=*/true);
  if (tag == std::string::npos) return false;
  pending_.erase(0, after - end);
  state_ = State::kClosed;
  return true;
}

void ReasoningSplitter::emit(std::vector<Piece>& out, size_t size, bool reasoning) {
  if (size == 0) return;
  out.push_back({pending_.substr(0, size), reasoning});
  pending_.erase(0, size);
}

}  // namespace dsr
