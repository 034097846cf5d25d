// A chat: its turns, the prompt they make, and their keys in the engine's cache.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "deepseek_run/answer.h"
#include "deepseek_run/chat.h"

namespace dsr {

struct ChatTurn {
  std::string user;
  std::string answer;                   // as the model wrote it, <think> and </think> included
  std::vector<ByteRange> control = {};  // ChatMessage::control of the answer
  FinishReason finish = FinishReason::kStop;  // kCancelled: the user stopped it
  bool operator==(const ChatTurn&) const = default;
};

// How an answer is made.
struct ChatSettings {
  Thinking thinking = Thinking::kAuto;
  std::vector<ChatTool> tools = {};
  bool allow_special = false;  // control tokens that a user types are control tokens
  SamplingParams sampling = {};
  std::vector<std::string> stop = {};
  int64_t max_new_tokens = -1;  // -1: to the end of the context, which ends any answer
};

// Owns a sequence of the engine: a turn prefills what follows the longest common prefix of the
// tokens that were fed and generated so far and the newly rendered ones. Engine and tokenizer
// outlive it; no other request runs while a turn does.
class Conversation {
 public:
  Conversation(Engine& engine, const Tokenizer& tokenizer, const ChatFormat& format);
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;
  ~Conversation();

  const ChatFormat& format() const { return format_; }
  const std::string& system() const { return system_; }  // empty: none
  void set_system(std::string text) { system_ = std::move(text); }
  const std::vector<ChatTurn>& turns() const { return turns_; }
  void set_turns(std::vector<ChatTurn> turns) { turns_ = std::move(turns); }
  void undo();  // the last turn, if there is one
  void clear() { turns_.clear(); }

  // The prompt that asks for an answer to `user` after all turns, or after the first `n_turns`.
  EncodedPrompt prompt(const std::string& user, const ChatSettings& settings) const;
  EncodedPrompt prompt(const std::string& user, const ChatSettings& settings, size_t n_turns) const;
  // Of all turns; 0 if there is none.
  int64_t n_tokens(const ChatSettings& settings) const;

  // Asks, and keeps the turn, also if `on_piece` (see run_to_end) ends it. If it fails (a prompt
  // that does not fit the context, a logit that is not finite) the turns are what they were.
  Answer ask(const std::string& user, const ChatSettings& settings,
             const std::function<bool(const AnswerPiece&)>& on_piece = {});
  // The last turn's question once more, in place of that turn. There must be one.
  Answer ask_again(const ChatSettings& settings,
                   const std::function<bool(const AnswerPiece&)>& on_piece = {});

 private:
  Answer run(const EncodedPrompt& prompt, const ChatSettings& settings,
             const std::function<bool(const AnswerPiece&)>& on_piece, std::string& written);
  // The turn that `answer` makes; `in_reasoning`: its prompt ended inside a reasoning block.
  ChatTurn turn_of(const std::string& user, const ChatSettings& settings, bool in_reasoning,
                   const Answer& answer, std::string_view written) const;
  std::vector<ChatMessage> messages(const std::string& user, size_t n_turns) const;

  Engine& engine_;
  const Tokenizer& tokenizer_;
  const ChatFormat& format_;
  SequenceId sequence_;
  std::string system_;
  std::vector<ChatTurn> turns_;
};

// "1,900 of 2,048 tokens (92 %)"
std::string context_use(int64_t n_tokens, int64_t ctx_size);
// "prompts 812 tok computed, 1,204 tok reused | answers 214 tok"
std::string totals_line(const EngineStats& stats);

}  // namespace dsr
