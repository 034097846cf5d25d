#include "sampling/sampler_state.h"

#include <limits>
#include <map>

namespace dsr {

SamplerState::SamplerState(const SamplingParams& p, const std::vector<bool>& dry_breakers)
    : guarded_(p.loop_guard) {
  std::map<TokenId, double> sums;
  for (const auto& [id, bias] : p.logit_bias) sums[id] += bias;
  logit_bias_.assign(sums.begin(), sums.end());
  if (p.dry_multiplier > 0)
    dry_.emplace(DryParams{.multiplier = p.dry_multiplier,
                           .base = p.dry_base,
                           .allowed_length = p.dry_allowed_length},
                 dry_breakers);
}

bool penalises(const SamplingParams& p) {
  const bool any = p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
  return any && p.penalty_window != 0;
}

bool can_draw_ahead(const SamplingParams& p) {
  return !penalises(p) && p.dry_multiplier == 0 && p.logprobs < 0;
}

bool SamplerState::push(TokenId id) {
  if (!guarded_) return false;
  if (!loop_guard_) loop_guard_.emplace();
  return loop_guard_->push(id);
}

std::vector<std::pair<TokenId, float>> SamplerState::biases(std::span<const TokenId> tokens) {
  std::vector<TokenPenalty> penalties;
  if (dry_) penalties = dry_->penalties(tokens);
  std::vector<std::pair<TokenId, float>> out;
  auto penalty = penalties.begin();
  const auto add_penalties_below = [&](int64_t id) {
    for (; penalty != penalties.end() && penalty->id < id; ++penalty)
      out.emplace_back(penalty->id, static_cast<float>(-penalty->penalty));
  };
  for (const auto& [id, bias] : logit_bias_) {
    add_penalties_below(id);
    const bool both = penalty != penalties.end() && penalty->id == id;
    out.emplace_back(id, static_cast<float>(both ? bias - (penalty++)->penalty : bias));
  }
  add_penalties_below(std::numeric_limits<int64_t>::max());
  return out;
}

}  // namespace dsr
