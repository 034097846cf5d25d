// The OpenAI completion object: see deepseek_run/answer.h.
#include <limits>

#include "app/log_probs_json.h"
#include "base/json.h"
#include "deepseek_run/answer.h"

namespace dsr {
namespace {

Json json_of(const std::vector<TokenId>& ids) {
  Json out = Json::array();
  for (const TokenId id : ids) out.push_back(int64_t{id});
  return out;
}

// JSON integers end at 2^63 - 1 for most readers; a larger seed is written as text.
Json json_of_seed(uint64_t seed) {
  if (seed <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return static_cast<int64_t>(seed);
  return std::to_string(seed);
}

// The answer with its reasoning in one text, as a model writes it.
std::string whole_text(const Answer& a) {
  if (a.reasoning.empty()) return a.content;
  return "<think>\n" + a.reasoning + "\n</think>\n\n" + a.content;
}

Json choice(const Answer& a, int64_t index, const AnswerJsonOptions& options) {
  Json out = Json::object();
  out.set("index", index);
  if (options.chat) {
    Json message = Json::object();
    message.set("role", "assistant");
    message.set("content", options.separate_reasoning ? a.content : whole_text(a));
    if (options.separate_reasoning && !a.reasoning.empty())
      message.set("reasoning_content", a.reasoning);
    out.set("message", std::move(message));
  } else {
    out.set("text", options.separate_reasoning ? a.content : whole_text(a));
    if (options.separate_reasoning && !a.reasoning.empty())
      out.set("reasoning_content", a.reasoning);
  }
  out.set("ids", json_of(a.ids));
  out.set("seed", json_of_seed(a.seed));
  out.set("finish_reason", name(a.finish));
  if (options.log_probs)
    out.set("logprobs", options.chat ? chat_log_probs(a, options.tokenizer)
                                     : text_log_probs(a, options.tokenizer));
  return out;
}

Json usage(const std::vector<Answer>& answers, int64_t prompt_tokens) {
  int64_t completion_tokens = 0;
  for (const Answer& a : answers) completion_tokens += std::ssize(a.ids);
  Json out = Json::object();
  out.set("prompt_tokens", prompt_tokens);
  out.set("completion_tokens", completion_tokens);
  out.set("total_tokens", prompt_tokens + completion_tokens);
  return out;
}

Json timings(const std::vector<Answer>& answers) {
  Json out = Json::array();
  for (const Answer& a : answers) {
    Json t = Json::object();
    t.set("first_token_seconds", a.first_token_seconds);
    t.set("total_seconds", a.total_seconds);
    out.push_back(std::move(t));
  }
  return out;
}

}  // namespace

std::string answer_json(const std::vector<Answer>& answers, const std::vector<TokenId>& prompt_ids,
                        const AnswerJsonOptions& options) {
  Json out = Json::object();
  out.set("id", options.id);
  out.set("object", options.chat ? "chat.completion" : "text_completion");
  out.set("model", options.model);
  Json choices = Json::array();
  for (const Answer& a : answers)
    choices.push_back(choice(a, std::ssize(choices.as_array()), options));
  out.set("choices", std::move(choices));
  out.set("usage", usage(answers, std::ssize(prompt_ids)));
  out.set("prompt_ids", json_of(prompt_ids));
  if (options.timings) out.set("timings", timings(answers));
  return out.dump();
}

}  // namespace dsr
