// The user's own editor.
#pragma once

#include <optional>
#include <string>

namespace dsr {

// $VISUAL, else $EDITOR; empty if neither is set.
std::string editor_command();

// Runs `command` on a file that only its owner can read, with `text` in it; what is in it then,
// less the line break that editors add. nullopt if the editor says that it failed. Throws
// Error(kUsage) if it cannot be run.
std::optional<std::string> edit_text(const std::string& command, const std::string& text);

}  // namespace dsr
