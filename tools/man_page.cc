#include "tools/man_page.h"

#include <array>
#include <string_view>

#include "deepseek_run/version.h"
#include "tools/option_table.h"

namespace dsr {
namespace {

struct ExitCode {
  std::string_view code, meaning;
};
constexpr std::array kExitCodes = {
    ExitCode{"0", "Done."},
    ExitCode{"1", "An internal error: a bug."},
    ExitCode{"2", "Usage: a flag, a prompt, a number out of range."},
    ExitCode{"3", "The model is missing, damaged or unsupported."},
    ExitCode{"4", "It does not fit; the plan is printed."},
    ExitCode{"5", "The device, its driver, or communication."},
    ExitCode{"6", "The output could not be written."},
    ExitCode{"7", "Some lines or records failed; the others are done."},
    ExitCode{"8", "The model's numbers are not finite, or a check of itself failed."},
    ExitCode{"9", "A benchmark is slower than the one it was compared with."},
    ExitCode{"128+n", "Ended by signal n, with everything flushed."},
};

struct Entry {
  std::string_view name, meaning;
};
constexpr std::array kVariables = {
    Entry{
        "DEEPSEEK_RUN_<FLAG>",
        "Sets a flag that is not given: DEEPSEEK_RUN_MODEL, DEEPSEEK_RUN_TOP_K. A flag that takes "
        "no value is on or off."},
    Entry{"XDG_CONFIG_HOME", "Where the user's configuration is, else ~/.config."},
    Entry{"XDG_STATE_HOME", "Where the history of what was typed is, else ~/.local/state."},
    Entry{"VISUAL, EDITOR", "The editor that /edit opens in a chat."},
    Entry{"HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME", "Where org/name is looked for."},
    Entry{"NO_COLOR", "Nothing is dimmed or coloured."},
};

// Text that roff takes as it is.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if (c == '\n') {
      while (out.ends_with(' ')) out.pop_back();
      out += '\n';
    } else if (c == ' ' && out.ends_with('\n')) {
      continue;  // white space at the start of a line would break it
    } else {
      if ((c == '.' || c == '\'') && (out.empty() || out.ends_with('\n'))) out += "\\&";
      out += c;
    }
  }
  return out;
}

std::string flag_line(const Row& row) {
  std::string out;
  for (const std::string_view name : names_of(row))
    out += (out.empty() ? "\\fB" : ", \\fB") + roff(name) + "\\fR";
  const std::string_view value = row.value == nullptr ? "" : row.value;
  if (value.empty()) return out;
  return out + (value[0] == '[' ? "" : " ") + "\\fI" + roff(value) + "\\fR";
}

std::string flags_of(const CommandRow& command, bool with_groups) {
  std::string out, group;
  for (const Row& row : option_rows()) {
    if ((row.commands & command.bit) == 0 || row.group == kHidden) continue;
    if (with_groups && group != row.group) out += ".SS " + std::string(row.group) + "\n";
    group = row.group;
    out += ".TP\n" + flag_line(row) + "\n" + roff(row.help) + "\n";
  }
  return out;
}

template <typename Table>
std::string entries(const Table& table) {
  std::string out;
  for (const auto& [name, meaning] : table)
    out += ".TP\n\\fB" + roff(name) + "\\fR\n" + roff(meaning) + "\n";
  return out;
}

}  // namespace

std::string man_page() {
  const CommandRow& main = command_rows()[0];
  std::string out = std::string(".TH DEEPSEEK\\-RUN 1 \"\" \"deepseek\\-run ") + kVersion +
                    "\" \"User Commands\"\n"
                    ".SH NAME\n"
                    "deepseek\\-run \\- run DeepSeek models from a terminal\n"
                    ".SH SYNOPSIS\n.nf\n";
  for (const CommandRow& command : command_rows()) out += roff(command.usage) + "\n";
  out += ".fi\n.SH DESCRIPTION\n" + roff(main.help) +
         "\nStandard output holds the answer and nothing else; timings, warnings and errors go to\n"
         "standard error. The network is never used.\n.SH OPTIONS\n" +
         flags_of(main, /*with_groups=*/true) + ".SH COMMANDS\n";
  for (const CommandRow& command : command_rows())
    if (*command.name != '\0')
      out += ".SS " + roff(command.name) + "\n" + roff(command.help) + "\n" +
             flags_of(command, /*with_groups=*/false);
  return out + ".SH ENVIRONMENT\n" + entries(kVariables) +
         ".SH FILES\n.TP\n\\fI$XDG_CONFIG_HOME/deepseek\\-run/config\\fR\n"
         "Settings: lines \\(lqname = value\\(rq with the names of the flags; # begins a comment; "
         "a\n"
         "value may stand between double quotes, where \\e\\(dq \\e\\e \\en \\et \\er and \\ex1b "
         "are\n"
         "escapes. \\fB\\-\\-config\\fR names another such file, which counts before this one.\n"
         "\\fB\\-\\-print\\-config\\fR prints what results, in this form.\n"
         ".TP\n\\fI$XDG_STATE_HOME/deepseek\\-run/history\\fR\n"
         "What was typed in chats, readable by its owner alone.\n"
         ".SH EXIT STATUS\n" +
         entries(kExitCodes);
}

}  // namespace dsr
