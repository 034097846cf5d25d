// The commands. Each gives the exit code; failures are thrown.
#pragma once

#include "tools/options.h"

namespace dsr {

int run_one_shot(const Options& options);
int run_repl(const Options& options);
int run_tokenize(const Options& options);
int run_logits(const Options& options);
int run_inspect(const Options& options);
int run_plan(const Options& options);
int run_verify(const Options& options);
int run_bench(const Options& options);
int run_batch(const Options& options);
int run_perplexity(const Options& options);
int run_make_random_checkpoint(const Options& options);

}  // namespace dsr
