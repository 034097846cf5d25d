// deepseek-run: see --help.
#include <cstdio>
#include <exception>
#include <new>

#include "deepseek_run/error.h"
#include "deepseek_run/version.h"
#include "tools/commands.h"
#include "tools/io.h"
#include "tools/signals.h"

namespace dsr {
namespace {

int run(const std::vector<std::string>& arguments) {
  const Options options = parse_options(arguments);
  if (!options.help.empty()) {
    Output("").write(options.help);
    return 0;
  }
  if (options.version) {
    Output("").write(std::string("deepseek-run ") + kVersion + "\n");
    return 0;
  }
  switch (options.command) {
    case Command::kAnswer:
      return run_one_shot(options);
    case Command::kTokenize:
      return run_tokenize(options);
    case Command::kLogits:
      return run_logits(options);
    case Command::kInspect:
      return run_inspect(options);
    case Command::kPlan:
      return run_plan(options);
    case Command::kMakeRandomCheckpoint:
      return run_make_random_checkpoint(options);
  }
  return 1;
}

// The one place where failures end.
int guarded(const std::vector<std::string>& arguments) {
  try {
    return run(arguments);
  } catch (const Interrupted&) {
    return 128 + stop_signal();
  } catch (const Error& e) {
    print_line(std::string("error: ") + e.what());
    return e.exit_code();
  } catch (const std::bad_alloc&) {
    print_line("error: out of memory");
    return static_cast<int>(ErrorKind::kDoesNotFit);
  } catch (const std::exception& e) {
    print_line(std::string("error: internal error: ") + e.what());
    return static_cast<int>(ErrorKind::kInternal);
  }
}

}  // namespace
}  // namespace dsr

int main(int argc, char** argv) {
  dsr::install_signal_handlers();
  return dsr::guarded({argv + (argc > 0 ? 1 : 0), argv + argc});
}
