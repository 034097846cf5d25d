// Which records of a batch file are to be run, and in which order.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/batch_input.h"

namespace dsr {

// One record, as far as it must be known before any is run.
struct BatchItem {
  BatchPiece piece;
  std::optional<std::string> custom_id;  // none: the piece has none that can be read
  std::string id;                        // of the output record; the same whenever the batch is run
  std::string error;                     // why it cannot be answered; empty: it can
  int64_t prompt_tokens = 0;
  int64_t max_new_tokens = 0;  // -1: no limit
  int64_t n = 1;
  uint64_t prefix = 0;  // a hash of the first block of the prompt; of shorter prompts their own

  // What names it in the batch.
  std::string key() const;
};

// Throws Error(kUsage) where two records have the same custom_id.
std::vector<BatchItem> read_items(const std::vector<BatchPiece>& pieces, BatchParser& parser);

// Tokens of the longest prompt with its answer; answers without a limit count as one token.
int64_t longest_tokens(const std::vector<BatchItem>& items);

// The order that is fastest: records with the same beginning one after another, so that its keys
// are computed once and still there; groups, and records in a group, by the length they may reach,
// longest first, so that the end of the batch is not one long answer running alone.
std::vector<const BatchItem*> fastest_order(std::vector<const BatchItem*> items, int64_t ctx_size);

// How a run went so far.
struct BatchPace {
  double seconds = 0;
  int64_t ended_answers = 0, ended_tokens = 0;  // of answers that have ended, and their tokens
  int64_t ended_work = 0;    // tokens of prompts and answers of records that have ended
  int64_t running_work = 0;  // of those that have begun and not ended
};
// What the other records take at this pace, if answers without a limit become as long as those that
// ended. 0: nothing is known yet.
double seconds_left(const std::vector<const BatchItem*>& unfinished, const BatchPace& pace);

}  // namespace dsr
