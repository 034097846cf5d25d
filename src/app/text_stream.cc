#include "app/text_stream.h"

#include <utility>

namespace dsr {

bool is_text(const Tokenizer& tokenizer, TokenId id) {
  if (!tokenizer.is_special(id)) return true;
  const std::string_view text = tokenizer.token_bytes(id);
  return text == "<think>" || text == "</think>";
}

TextStream::TextStream(const Tokenizer& tokenizer, const AnswerRequest& request,
                       std::function<void(AnswerPiece)> sink)
    : tokenizer_(tokenizer), decoder_(tokenizer), stop_(request.stop), sink_(std::move(sink)) {
  if (request.split_reasoning) splitter_.emplace(request.starts_in_reasoning);
}

void TextStream::push(TokenId id) {
  if (is_text(tokenizer_, id)) give(stop_.push(decoder_.push(id)));
}

void TextStream::finish() {
  give(stop_.push(decoder_.finish()));
  give(stop_.finish());
  if (!splitter_) return;
  for (ReasoningSplitter::Piece& p : splitter_->finish()) sink_({std::move(p.text), p.reasoning});
}

void TextStream::give(const std::string& text) {
  if (text.empty()) return;
  if (!splitter_) return sink_({text, false});
  for (ReasoningSplitter::Piece& p : splitter_->push(text)) sink_({std::move(p.text), p.reasoning});
}

}  // namespace dsr
