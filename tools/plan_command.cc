#include <algorithm>

#include "deepseek_run/error.h"
#include "deepseek_run/plan.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/terminal.h"

namespace dsr {

int run_plan(const Options& options) {
  PlanQuery query = {.model_dir = "",
                     .card = options.card,
                     .weights = options.weights,
                     .gpus = options.gpus,
                     .device = options.device,
                     .cache_type = options.cache_type,
                     .ctx_size = options.ctx_size,
                     .max_seqs = std::max<int64_t>(options.max_seqs, 1),
                     .chunk = options.chunk,
                     .warn = warnings(options.quiet)};
  if (!query.card.empty() && !options.model.empty())
    throw Error(ErrorKind::kUsage, "plan takes -m or --card, not both");
  if (query.card.empty()) query.model_dir = find_model_dir(options.model, notes(options.quiet));
  const PlanReport report = options.format == Format::kJson ? plan_json(query) : plan_text(query);
  Output("").write(visible_json(report.text) + (options.format == Format::kJson ? "\n" : ""));
  return report.fits ? 0 : static_cast<int>(ErrorKind::kDoesNotFit);
}

}  // namespace dsr
