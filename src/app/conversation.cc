#include "deepseek_run/conversation.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "app/text_stream.h"
#include "base/error.h"
#include "text/control_tokens.h"

namespace dsr {
namespace {

// What a format may write around an answer: so many spaces before it, line breaks after it.
struct Cut {
  size_t front = 0, back = 0;
};
constexpr std::array kCuts = {Cut{1, 2}, Cut{1, 1}, Cut{1, 0}, Cut{0, 2}, Cut{0, 1}};

using OnPiece = std::function<bool(const AnswerPiece&)>;

ChatMessage answer_message(const ChatTurn& turn) {
  return {Role::kAssistant, turn.answer, turn.control};
}

bool is_token(const Tokenizer& tokenizer, TokenId id, std::string_view text) {
  return tokenizer.token_bytes(id) == text && tokenizer.find(text) == id;
}

// Where in the text of `ids` the tags of reasoning are. (A stop string may end the text sooner.)
std::vector<ByteRange> control_tags(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::vector<ByteRange> out;
  StreamDecoder decoder(tokenizer);
  int64_t end = 0;
  for (const TokenId id : ids) {
    if (!is_text(tokenizer, id)) continue;
    end += std::ssize(decoder.push(id));
    if (is_token(tokenizer, id, kThinkOpen) || is_token(tokenizer, id, kThinkClose))
      out.push_back({end - std::ssize(tokenizer.token_bytes(id)), end});
  }
  return out;
}

// An answer that was cut inside its reasoning gets the tag that ends it: what a format drops from
// earlier turns is dropped of it too.
void close_reasoning(const Tokenizer& tokenizer, bool starts_in_reasoning, ChatTurn& turn) {
  bool open = starts_in_reasoning;
  for (const ByteRange& tag : turn.control)
    open = tag.end - tag.begin == std::ssize(kThinkOpen);  // the last one counts
  if (!open || !tokenizer.find(kThinkClose)) return;
  const int64_t begin = std::ssize(turn.answer);
  turn.answer += kThinkClose;
  turn.control.push_back({begin, std::ssize(turn.answer)});
}

}  // namespace

Conversation::Conversation(Engine& engine, const Tokenizer& tokenizer, const ChatFormat& format)
    : engine_(engine), tokenizer_(tokenizer), format_(format), sequence_(engine.open_sequence()) {}

Conversation::~Conversation() { engine_.close_sequence(sequence_); }

void Conversation::undo() {
  if (!turns_.empty()) turns_.pop_back();
}

std::vector<ChatMessage> Conversation::messages(const std::string& user, size_t n_turns) const {
  std::vector<ChatMessage> out;
  if (!system_.empty()) out.push_back({Role::kSystem, system_});
  for (size_t i = 0; i < n_turns; ++i) {
    out.push_back({Role::kUser, turns_[i].user});
    out.push_back(answer_message(turns_[i]));
  }
  out.push_back({Role::kUser, user});
  return out;
}

EncodedPrompt Conversation::prompt(const std::string& user, const ChatSettings& s) const {
  return prompt(user, s, turns_.size());
}

EncodedPrompt Conversation::prompt(const std::string& user, const ChatSettings& s,
                                   size_t n_turns) const {
  return encode_prompt(tokenizer_, format_.render(messages(user, n_turns), s.thinking, s.tools),
                       s.allow_special);
}

int64_t Conversation::n_tokens(const ChatSettings& s) const {
  if (turns_.empty()) return 0;
  return std::ssize(prompt(turns_.back().user, s, turns_.size() - 1).ids) +
         std::ssize(tokenizer_.encode(turns_.back().answer));
}

Answer Conversation::ask(const std::string& user, const ChatSettings& s, const OnPiece& on_piece) {
  const EncodedPrompt prompt = this->prompt(user, s);
  std::string written;
  Answer answer = run(prompt, s, on_piece, written);
  if (answer.finish != FinishReason::kError)
    turns_.push_back(turn_of(user, s, prompt.starts_in_reasoning, answer, written));
  return answer;
}

Answer Conversation::ask_again(const ChatSettings& s, const OnPiece& on_piece) {
  DSR_CHECK(!turns_.empty());
  ChatTurn last = std::move(turns_.back());
  turns_.pop_back();
  const size_t n = turns_.size();
  try {
    Answer answer = ask(last.user, s, on_piece);
    if (turns_.size() == n) turns_.push_back(std::move(last));
    return answer;
  } catch (...) {
    turns_.push_back(std::move(last));
    throw;
  }
}

// `written` becomes all of the answer's text as the model wrote it.
Answer Conversation::run(const EncodedPrompt& prompt, const ChatSettings& s,
                         const OnPiece& on_piece, std::string& written) {
  const int64_t n = std::ssize(prompt.ids), ctx_size = engine_.info().ctx_size;
  if (n >= ctx_size)
    fail_usage("the conversation would be ", with_commas(n), " tokens, and the context holds ",
               with_commas(ctx_size), ": this message was not sent");
  AnswerRequest request;
  request.request.prompt = prompt.ids;
  request.request.sampling = s.sampling;
  request.request.max_new_tokens = std::min(s.max_new_tokens, ctx_size - n);
  request.request.sequence = sequence_;
  request.stop = s.stop;

  ReasoningSplitter splitter(prompt.starts_in_reasoning);
  std::string content, reasoning;
  bool wanted = true;
  const auto give = [&](const AnswerPiece& piece) {
    (piece.reasoning ? reasoning : content) += piece.text;
    if (on_piece && !on_piece(piece)) wanted = false;
  };
  const auto take = [&](const AnswerPiece& piece) {
    if (piece.text.empty()) give({});
    for (ReasoningSplitter::Piece& p : splitter.push(piece.text))
      give({std::move(p.text), p.reasoning});
    return wanted;
  };
  const int64_t reused = engine_.stats().prompt_tokens_reused;
  Answer answer;
  try {
    answer = run_to_end(engine_, &tokenizer_, request, take);
  } catch (...) {
    engine_.step();  // the request, cancelled by now, gives the sequence back
    throw;
  }
  for (ReasoningSplitter::Piece& p : splitter.finish()) give({std::move(p.text), p.reasoning});
  written = std::exchange(answer.content, std::move(content));
  answer.reasoning = std::move(reasoning);
  answer.reused_tokens = engine_.stats().prompt_tokens_reused - reused;
  return answer;
}

// Some formats write a space before an answer or line breaks after it, and the model writes them
// too: the message is the shortest text from which the format makes what the model wrote.
ChatTurn Conversation::turn_of(const std::string& user, const ChatSettings& s, bool in_reasoning,
                               const Answer& answer, std::string_view written) const {
  std::vector<ChatMessage> messages = this->messages(user, turns_.size());
  const std::string wanted = format_.render(messages, s.thinking, s.tools).text.append(written);
  messages.push_back({Role::kAssistant, ""});
  messages.push_back({Role::kUser, ""});
  std::string& content = messages[messages.size() - 2].content;
  const auto fits = [&](const Cut& cut) {
    if (cut.front + cut.back > written.size() || written.find_first_not_of(' ') < cut.front ||
        written.find_last_not_of('\n') + cut.back >= written.size())
      return false;
    content = written.substr(cut.front, written.size() - cut.front - cut.back);
    return format_.render(messages, s.thinking, s.tools).text.starts_with(wanted);
  };
  const auto found = std::find_if(kCuts.begin(), kCuts.end(), fits);
  const Cut cut = found == kCuts.end() ? Cut{} : *found;
  const auto front = static_cast<int64_t>(cut.front);
  written = written.substr(cut.front, written.size() - cut.front - cut.back);
  ChatTurn out{user, std::string(written), {}, answer.finish};
  for (const ByteRange& tag : control_tags(tokenizer_, answer.ids)) {
    const ByteRange moved{tag.begin - front, tag.end - front};
    if (moved.end <= std::ssize(out.answer)) out.control.push_back(moved);
  }
  close_reasoning(tokenizer_, in_reasoning, out);
  return out;
}

std::string context_use(int64_t n_tokens, int64_t ctx_size) {
  const double share = static_cast<double>(n_tokens) / static_cast<double>(ctx_size);
  return str(with_commas(n_tokens), " of ", with_commas(ctx_size), " tokens (",
             static_cast<int64_t>(100 * share), " %)");
}

std::string totals_line(const EngineStats& s) {
  return str("prompts ", with_commas(s.prompt_tokens_computed), " tok computed, ",
             with_commas(s.prompt_tokens_reused), " tok reused | answers ",
             with_commas(s.tokens_generated), " tok");
}

}  // namespace dsr
