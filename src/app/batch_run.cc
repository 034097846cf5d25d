#include "app/batch_run.h"

#include <algorithm>

#include "base/error.h"

namespace dsr {
namespace {

// The first 24 hexadecimal digits name a record well enough.
std::string short_id(const BatchItem& item) { return item.id.substr(item.id.rfind('_') + 1); }

Json record_head(const BatchItem& item) {
  Json out = Json::object();
  out.set("id", item.id);
  out.set("custom_id", item.custom_id ? Json(*item.custom_id) : Json());
  return out;
}

}  // namespace

std::string error_record(const BatchItem& item, const std::string& code,
                         const std::string& message) {
  Json error = Json::object();
  error.set("code", code).set("message", message);
  return record_head(item).set("response", Json()).set("error", std::move(error)).dump() + "\n";
}

void BatchRun::submit(const std::vector<const BatchItem*>& items, size_t& next) {
  const auto enough = static_cast<size_t>(2 * o_.max_seqs);
  while (next < items.size() && by_request_.size() < enough) start(*items[next++]);
}

void BatchRun::start(const BatchItem& item) {
  auto record = std::make_unique<Record>(Record{&item, {}, {}, {}});
  try {
    record->request = parser_.parse(item.piece);
    AnswerRequest& r = record->request.request;
    for (int64_t i = 0; i < record->request.n; ++i) {
      r.request.sampling.sample_index = i;
      record->answers.push_back(std::make_unique<AnswerBuilder>(o_.tokenizer, r));
      record->ids.push_back(engine_.submit(r.request));
    }
  } catch (const Error& e) {
    for (const RequestId id : record->ids) engine_.cancel(id);
    if (e.kind() != ErrorKind::kUsage) throw;
    output_.append(item.id, error_record(item, "invalid_request", e.what()), true);
    return;
  }
  for (size_t i = 0; i < record->ids.size(); ++i) by_request_[record->ids[i]] = {record.get(), i};
  running_.push_back(std::move(record));
}

void BatchRun::step() {
  for (const StepOutput& out : engine_.step()) {
    const auto at = by_request_.find(out.request);
    if (at == by_request_.end()) continue;  // of a record that failed with another answer
    const auto [record, index] = at->second;
    tokens_ += std::ssize(out.tokens);
    AnswerBuilder& answer = *record->answers[index];
    answer.take(out, record->timer.seconds());
    if (answer.stopped() && !answer.ended()) engine_.cancel(out.request);
    if (!answer.ended()) continue;
    by_request_.erase(at);
    if (std::all_of(record->answers.begin(), record->answers.end(),
                    [](const auto& a) { return a->ended(); }))
      finish(*record);
  }
  output_.sync_if_due();
}

BatchPace BatchRun::pace(double seconds) const {
  BatchPace out = ended_;
  out.seconds = seconds;
  for (const auto& record : running_) {
    int64_t tokens = 0;
    for (const auto& a : record->answers) tokens += std::ssize(a->answer().ids);
    if (tokens > 0) out.running_work += record->item->prompt_tokens + tokens;
  }
  return out;
}

void BatchRun::finish(Record& record) {
  const BatchItem& item = *record.item;
  std::vector<Answer> answers;
  Json stats = Json::object();
  int64_t tokens = 0;
  for (const auto& a : record.answers) {
    tokens += std::ssize(a->answer().ids);
    answers.push_back(std::move(a->answer()));
  }
  const auto broken = std::find_if(answers.begin(), answers.end(), [](const Answer& a) {
    return a.finish == FinishReason::kError;
  });
  if (broken != answers.end()) {
    output_.append(item.id,
                   error_record(item, "non_finite",
                                str("a logit was not finite after ", broken->ids.size(),
                                    " tokens of the answer")),
                   true);
  } else {
    const bool chat = record.request.chat;
    const std::string body =
        answer_json(answers, record.request.request.request.prompt,
                    {.model = o_.model_name,
                     .id = (chat ? "chatcmpl-" : "cmpl-") + short_id(item),
                     .chat = chat,
                     .timings = false,
                     .log_probs = record.request.request.request.sampling.logprobs >= 0,
                     .tokenizer = o_.tokenizer});
    // The body is JSON text already: it is put where a member of the same name would stand.
    std::string head = record_head(item).dump();
    head.pop_back();
    output_.append(item.id,
                   head + R"(,"response":{"status_code":200,"request_id":"req_)" + short_id(item) +
                       R"(","body":)" + body + R"(},"error":null})" + "\n",
                   false);
  }
  stats.set("id", item.id).set("custom_id", item.custom_id ? Json(*item.custom_id) : Json());
  stats.set("prompt_tokens", item.prompt_tokens).set("completion_tokens", tokens);
  stats.set("first_token_seconds", answers.front().first_token_seconds);
  stats.set("total_seconds", record.timer.seconds());
  stats_.append(stats);
  ended_.ended_answers += std::ssize(answers);
  ended_.ended_tokens += tokens;
  ended_.ended_work += item.prompt_tokens + tokens;
  std::erase_if(running_, [&](const auto& r) { return r.get() == &record; });
}

}  // namespace dsr
