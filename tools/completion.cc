#include "tools/completion.h"

#include <algorithm>
#include <vector>

#include "deepseek_run/chat.h"
#include "tools/option_table.h"

namespace dsr {
namespace {

// The values a row takes, if they are known.
std::vector<std::string_view> choices_of(const Row& row) {
  if (long_name(row) == "--chat-format") return ChatFormat::names();
  std::vector<std::string_view> out;
  std::string_view rest = row.value == nullptr ? "" : row.value;
  if (rest.find('|') == rest.npos) return out;
  while (true) {
    const size_t bar = rest.find('|');
    out.push_back(rest.substr(0, bar));
    if (bar == rest.npos) return out;
    rest.remove_prefix(bar + 1);
  }
}

enum class Kind { kNone, kOptional, kFile, kDirectory, kChoice, kOther };

Kind kind_of(const Row& row) {
  const std::string_view value = row.value == nullptr ? "" : row.value;
  if (value.empty()) return Kind::kNone;
  if (value[0] == '[') return Kind::kOptional;
  if (value == "FILE") return Kind::kFile;
  if (value == "DIR") return Kind::kDirectory;
  return choices_of(row).empty() ? Kind::kOther : Kind::kChoice;
}

template <typename Parts>
std::string joined(const Parts& parts, std::string_view separator) {
  std::string out;
  for (const auto& part : parts) out += (out.empty() ? "" : std::string(separator)).append(part);
  return out;
}

std::vector<const Row*> rows_of(const CommandRow& command) {
  std::vector<const Row*> out;
  for (const Row& row : option_rows())
    if ((row.commands & command.bit) != 0 && row.group != kHidden) out.push_back(&row);
  return out;
}

std::string all_names(const CommandRow& command) {
  std::vector<std::string_view> out;
  for (const Row* row : rows_of(command))
    for (const std::string_view name : names_of(*row)) out.push_back(name);
  return joined(out, " ");
}

std::vector<std::string_view> command_names() {
  std::vector<std::string_view> out;
  for (const CommandRow& command : command_rows())
    if (*command.name != '\0') out.emplace_back(command.name);
  return out;
}

// The help without the line breaks and white space of the table.
std::string one_line(std::string_view help) {
  std::string out;
  for (const char c : help)
    if ((c != ' ' && c != '\n') || !out.ends_with(' ')) out += c == '\n' ? ' ' : c;
  return out;
}

// The first thing that is said of a command.
std::string summary(const CommandRow& command) {
  const std::string text = one_line(command.help);
  return text.substr(0, text.find_first_of(".:;,"));
}

// --- bash
// -----------------------------------------------------------------------------------------

// "    bench:--format) words 'md json' ;;"
std::string bash_values(const CommandRow& command) {
  std::string out;
  for (const Row* row : rows_of(command)) {
    std::vector<std::string> patterns;
    for (const std::string_view name : names_of(*row))
      patterns.push_back(std::string(command.name) + ":" + std::string(name));
    std::string action;
    switch (kind_of(*row)) {
      case Kind::kNone:
      case Kind::kOptional:
        continue;
      case Kind::kFile:
        action = "files -f";
        break;
      case Kind::kDirectory:
        action = "files -d";
        break;
      case Kind::kChoice:
        action = "words '" + joined(choices_of(*row), " ") + "'";
        break;
      case Kind::kOther:
        action = ":";
        break;
    }
    out += "    " + joined(patterns, "|") + ") " + action + "; return ;;\n";
  }
  return out;
}

std::string bash_script() {
  const std::string commands = joined(command_names(), " ");
  std::string out =
      "# bash completion of deepseek-run, made by: deepseek-run --completion bash\n"
      "_deepseek_run() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=\n"
      "  words() { mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$word\"); }\n"
      "  files() {\n"
      "    compopt -o filenames 2>/dev/null\n"
      "    mapfile -t COMPREPLY < <(compgen \"$1\" -- \"$word\")\n"
      "  }\n"
      "  COMPREPLY=()\n"
      "  # bash takes --flag=value apart.\n"
      "  if [[ $word == = ]]; then word=\n"
      "  elif [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
      "  if (( COMP_CWORD > 1 )); then\n"
      "    case ${COMP_WORDS[1]} in\n"
      "      " +
      joined(command_names(), "|") +
      ") command=${COMP_WORDS[1]} ;;\n"
      "    esac\n"
      "  fi\n"
      "  case $command:$before in\n";
  for (const CommandRow& command : command_rows()) out += bash_values(command);
  out += "  esac\n  case $command in\n";
  for (const CommandRow& command : command_rows()) {
    const bool named = *command.name != '\0';
    out += "    " + (named ? std::string(command.name) : "''") + ") words '" + all_names(command) +
           "' ;;\n";
  }
  return out + "  esac\n  if (( COMP_CWORD == 1 )) && [[ $word != -* ]]; then words '" + commands +
         "'; fi\n}\ncomplete -F _deepseek_run deepseek-run\n";
}

// --- zsh
// ------------------------------------------------------------------------------------------

// Text inside '[...]' of a specification between single quotes.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char c : one_line(text)) {
    if (c == '\'') {
      out += "'\\''";
      continue;
    }
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_arguments(const CommandRow& command) {
  std::string out = "      _arguments -S";
  for (const Row* row : rows_of(command)) {
    const Kind kind = kind_of(*row);
    std::string action;
    if (kind == Kind::kFile) action = ":_files";
    if (kind == Kind::kDirectory) action = ":_files -/";
    if (kind == Kind::kChoice) action = ":(" + joined(choices_of(*row), " ") + ")";
    if (kind == Kind::kOther) action = ": ";
    for (const std::string_view name : names_of(*row)) {
      const std::string_view joint = action.empty() ? "" : name.starts_with("--") ? "=" : "+";
      out += " \\\n        '*" + std::string(name) + std::string(joint) + "[" +
             zsh_text(row->help) + "]";
      out += action.empty() ? "'" : ":" + zsh_text(row->value) + action + "'";
    }
  }
  return out + " ;;\n";
}

std::string zsh_script() {
  std::string out =
      "#compdef deepseek-run\n"
      "# zsh completion of deepseek-run, made by: deepseek-run --completion zsh\n"
      "_deepseek_run() {\n"
      "  local -a commands\n"
      "  commands=(\n";
  for (const CommandRow& command : command_rows())
    if (*command.name != '\0')
      out += "    '" + std::string(command.name) + ":" + zsh_text(summary(command)) + "'\n";
  out +=
      "  )\n"
      "  if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  case $words[2] in\n";
  for (const CommandRow& command : command_rows())
    if (*command.name != '\0')
      out += "    " + std::string(command.name) + ")\n      shift words; (( CURRENT-- ))\n" +
             zsh_arguments(command);
  out += "    *)\n" + zsh_arguments(command_rows()[0]) + "  esac\n}\n";
  // Autoloaded from a file of that name, or read by `source`.
  return out +
         "if [[ $funcstack[1] == _deepseek_run ]]; then _deepseek_run \"$@\"\n"
         "else compdef _deepseek_run deepseek-run; fi\n";
}

// --- fish
// -----------------------------------------------------------------------------------------

std::string fish_text(std::string_view text) {
  std::string out = "'";
  for (const char c : one_line(text)) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_script() {
  const std::string commands = joined(command_names(), " ");
  std::string out =
      "# fish completion of deepseek-run, made by: deepseek-run --completion fish\n"
      "complete -c deepseek-run -f\n";
  for (const CommandRow& command : command_rows()) {
    const bool named = *command.name != '\0';
    if (named)
      out += "complete -c deepseek-run -n __fish_use_subcommand -a " + std::string(command.name) +
             " -d " + fish_text(summary(command)) + "\n";
    const std::string condition = named ? "__fish_seen_subcommand_from " + std::string(command.name)
                                        : "not __fish_seen_subcommand_from " + commands;
    for (const Row* row : rows_of(command)) {
      out += "complete -c deepseek-run -n '" + condition + "'";
      for (const std::string_view name : names_of(*row))
        out += name.starts_with("--") ? " -l " + std::string(name.substr(2))
                                      : " -s " + std::string(name.substr(1));
      const Kind kind = kind_of(*row);
      if (kind == Kind::kFile) out += " -rF";
      if (kind == Kind::kDirectory) out += " -xa '(__fish_complete_directories)'";
      if (kind == Kind::kChoice) out += " -xa '" + joined(choices_of(*row), " ") + "'";
      if (kind == Kind::kOther) out += " -x";
      out += " -d " + fish_text(row->help) + "\n";
    }
  }
  return out;
}

}  // namespace

std::string completion_script(std::string_view shell) {
  if (shell == "bash") return bash_script();
  return shell == "zsh" ? zsh_script() : fish_script();
}

}  // namespace dsr
