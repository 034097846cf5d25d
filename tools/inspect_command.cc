#include "deepseek_run/inspect.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"
#include "tools/terminal.h"

namespace dsr {

int run_inspect(const Options& options) {
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  const WarningSink warn = warnings(options.quiet);
  const std::string report = options.format == Format::kJson
                                 ? visible_json(inspect_json(dir, warn)) + "\n"
                                 : inspect_text(dir, warn);
  Output("").write(report);
  return 0;
}

}  // namespace dsr
