// The records of a batch under way.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "app/answer_builder.h"
#include "app/batch_output.h"
#include "app/batch_plan.h"

namespace dsr {

struct BatchRunOptions {
  const Tokenizer* tokenizer = nullptr;
  std::string model_name = {};
  int64_t max_seqs = 1;
};

// Feeds an engine and writes what comes out.
class BatchRun {
 public:
  BatchRun(const BatchRunOptions& options, Engine& engine, BatchParser& parser, BatchOutput& output,
           BatchStats& stats)
      : o_(options), engine_(engine), parser_(parser), output_(output), stats_(stats) {}

  // Queues answers as long as the engine is not well supplied; `next` names them.
  void submit(const std::vector<const BatchItem*>& items, size_t& next);
  void step();
  bool idle() const { return running_.empty(); }
  int64_t tokens() const { return tokens_; }
  BatchPace pace(double seconds) const;

 private:
  struct Record {
    const BatchItem* item;
    BatchRecord request;
    std::vector<std::unique_ptr<AnswerBuilder>> answers;
    std::vector<RequestId> ids;
    Timer timer = {};
  };
  void start(const BatchItem& item);
  void finish(Record& record);

  BatchRunOptions o_;
  Engine& engine_;
  BatchParser& parser_;
  BatchOutput& output_;
  BatchStats& stats_;
  std::vector<std::unique_ptr<Record>> running_;
  std::unordered_map<RequestId, std::pair<Record*, size_t>> by_request_;
  int64_t tokens_ = 0;
  BatchPace ended_ = {};  // what it says of records that have ended
};

// {"id", "custom_id", "response": null, "error": {"code", "message"}} and a line break.
std::string error_record(const BatchItem& item, const std::string& code,
                         const std::string& message);

}  // namespace dsr
