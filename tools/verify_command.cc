#include "deepseek_run/error.h"
#include "deepseek_run/verify.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/model_dir.h"

namespace dsr {

int run_verify(const Options& options) {
  const std::string dir = find_model_dir(options.model, notes(options.quiet));
  const VerifyReport report = verify_checkpoint(dir, warnings(options.quiet));
  Output("").write(report.text);
  return report.ok ? 0 : static_cast<int>(ErrorKind::kModel);
}

}  // namespace dsr
