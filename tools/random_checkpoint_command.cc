#include <array>
#include <cstdio>

#include "deepseek_run/error.h"
#include "deepseek_run/random_checkpoint.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/signals.h"
#include "tools/terminal.h"

namespace dsr {

int run_make_random_checkpoint(const Options& options) {
  if (options.card.empty() || options.output.empty())
    throw Error(ErrorKind::kUsage, "make-random-checkpoint needs --card FILE and -o DIR");
  const RandomCheckpoint made = make_random_checkpoint({
      .card = options.card,
      .weights = options.weights,
      .layers = options.layers,
      .seed = options.sampling.seed.value_or(0),
      .directory = options.output,
      .progress =
          [](int64_t, int64_t) {
            if (stop_signal() == 0) return true;
            acknowledge_stop();  // removing what was written may take its time
            return false;
          },
      .warn = warnings(options.quiet),
  });
  if (!made.complete) return 128 + stop_signal();
  std::array<char, 160> line;
  std::snprintf(line.data(), line.size(),
                "%lld tensors in %lld files, %.2f GB in %.1f s, %.0f MB/s",
                static_cast<long long>(made.tensors), static_cast<long long>(made.files),
                static_cast<double>(made.bytes) * 1e-9, made.seconds,
                static_cast<double>(made.bytes) * 1e-6 / made.seconds);
  if (!options.quiet) print_line(visible_line(options.output) + ": " + line.data());
  return 0;
}

}  // namespace dsr
