#include "engine/generation_config.h"

#include <algorithm>

#include "base/error.h"

namespace dsr {

SamplingParams sampling_defaults(const Json* json, int64_t vocab_size, const WarningSink& warn) {
  const SamplingParams built_in;
  if (json == nullptr) return built_in;
  SamplingParams p;
  try {
    JsonReader r(*json, "generation_config.json");
    p.temperature = r.get_double("temperature", 0, 100, p.temperature);
    p.top_p = r.get_double("top_p", 0, 1, p.top_p);
    p.top_k = r.get_int("top_k", 0, 1 << 20, p.top_k);
    p.repetition_penalty = r.get_double("repetition_penalty", 0.01, 100, p.repetition_penalty);
    // Where a checkpoint states a penalty it means the whole text, as transformers applies it.
    if (p.repetition_penalty != 1) p.penalty_window = -1;
    if (!r.get_bool("do_sample", true)) p.temperature = 0;
    check_sampling_params(p, vocab_size);
  } catch (const Error& e) {
    if (warn) warn(str(e.what(), "; using the built-in sampling defaults"));
    return built_in;
  }
  return p;
}

std::vector<TokenId> eos_ids(const std::vector<int64_t>& from_config, const Json* json,
                             int64_t vocab_size) {
  std::vector<TokenId> ids;
  const auto add = [&](int64_t id) {
    if (id >= 0 && id < vocab_size && std::find(ids.begin(), ids.end(), id) == ids.end())
      ids.push_back(static_cast<TokenId>(id));
  };
  for (const int64_t id : from_config) add(id);
  const Json* more = json != nullptr && json->is_object() ? json->find("eos_token_id") : nullptr;
  if (more != nullptr && more->is_int()) add(more->as_int());
  if (more != nullptr && more->is_array())
    for (const Json& id : more->as_array())
      if (id.is_int()) add(id.as_int());
  return ids;
}

}  // namespace dsr
