#include "tools/answer_setup.h"

#include <random>

#include "tools/io.h"

namespace dsr {

EngineOptions engine_options(const Options& options, const std::string& model_dir,
                             const Tokenizer* tokenizer) {
  return {.model_dir = model_dir,
          .device = options.device,
          .threads = options.threads,
          .load_mode = options.load_mode,
          .cpu_level = options.cpu_level,
          .cpu_math = options.cpu_math,
          .cuda_arch = options.cuda_arch,
          .ctx_size = options.ctx_size,
          .max_seqs = options.max_seqs > 0 ? options.max_seqs : options.n_samples,
          .chunk = options.chunk,
          .cache_type = options.cache_type,
          .debug_nan = options.debug_nan,
          .tokenizer = tokenizer,
          .warn = warnings(options.quiet)};
}

// The id of an answer, and the seed where none was given: both have nothing to be reproduced from.
uint64_t random_bits() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

uint64_t random_seed() { return random_bits() >> 11; }

void check_sampling(const Options& options) {
  SamplingParams params;
  options.sampling.apply_to(params);
  check_sampling_params(params, int64_t{1} << 31);
}

}  // namespace dsr
