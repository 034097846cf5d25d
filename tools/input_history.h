// What was typed in earlier chats: $XDG_STATE_HOME/deepseek-run/history, else under
// ~/.local/state. Readable by its owner alone. An entry is a line; line breaks and backslashes in
// it are written \n and \\.
#pragma once

#include <string>
#include <vector>

namespace dsr {

class InputHistory {
 public:
  InputHistory();
  // The newest entries, the oldest first. A file that has grown long is cut to them.
  std::vector<std::string> load();
  // Appended at once: nothing is lost however the chat ends. That it cannot be is said once.
  void add(const std::string& entry);

 private:
  std::string path_;  // empty: there is no place for it
  std::string last_;
};

}  // namespace dsr
