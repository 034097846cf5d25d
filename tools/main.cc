// deepseek-run: see --help.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <exception>
#include <new>

#include "deepseek_run/devices.h"
#include "deepseek_run/error.h"
#include "deepseek_run/version.h"
#include "tools/commands.h"
#include "tools/completion.h"
#include "tools/help.h"
#include "tools/io.h"
#include "tools/man_page.h"
#include "tools/option_table.h"
#include "tools/print_config.h"
#include "tools/repl.h"
#include "tools/signals.h"

namespace dsr {
namespace {

// What there is around the command line. The environment is read here and nowhere below tools/.
Surroundings surroundings() {
  Surroundings out;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry)
    out.environment.emplace_back(*entry);
  out.read_file = [](const std::string& path) -> std::optional<std::string> {
    const bool missing = ::access(path.c_str(), F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR);
    return missing ? std::nullopt : std::optional<std::string>(read_all(path));
  };
  return out;
}

// What a flag prints that answers no prompt; empty: none was given.
std::string information(const Options& options) {
  if (options.version) return std::string("deepseek-run ") + kVersion + "\n";
  if (options.list_devices) return devices_text();
  if (options.man) return man_page();
  if (!options.completion.empty()) return completion_script(options.completion);
  if (options.print_config) return config_text(options);
  if (!options.help) return "";
  if (!options.help->empty()) return help_on(*options.help);
  for (const CommandRow& row : command_rows())
    if (row.command == options.command) return help_text(row);
  return "";
}

int run(const std::vector<std::string>& arguments) {
  const Options options = parse_options(arguments, surroundings());
  for (const std::string& line : options.warnings) warnings(options.quiet)(line);
  if (const std::string text = information(options); !text.empty()) {
    Output("").write(text);
    return 0;
  }
  switch (options.command) {
    case Command::kAnswer:
      return wants_chat(options) ? run_repl(options) : run_one_shot(options);
    case Command::kTokenize:
      return run_tokenize(options);
    case Command::kLogits:
      return run_logits(options);
    case Command::kInspect:
      return run_inspect(options);
    case Command::kPlan:
      return run_plan(options);
    case Command::kVerify:
      return run_verify(options);
    case Command::kBench:
      return run_bench(options);
    case Command::kPerplexity:
      return run_perplexity(options);
    case Command::kBatch:
      return run_batch(options);
    case Command::kMakeRandomCheckpoint:
      return run_make_random_checkpoint(options);
  }
  return 1;
}

// A file that we open must not become descriptor 0, 1 or 2: it would be taken for a standard
// stream. Where one of these is closed there is /dev/null in its place, in the direction in which
// nothing gets lost unnoticed: results that are written to it fail.
void open_standard_streams() {
  constexpr std::array kFlags = {O_RDONLY, O_RDONLY, O_WRONLY};
  for (int fd = 0; fd < 3; ++fd)
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", kFlags[static_cast<size_t>(fd)]) != fd)
      std::exit(static_cast<int>(ErrorKind::kOutput));
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
  dsr::open_standard_streams();
  dsr::install_signal_handlers();
  return dsr::guarded({argv + (argc > 0 ? 1 : 0), argv + argc});
}
