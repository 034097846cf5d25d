// A chat on the terminal.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "deepseek_run/chat_session.h"
#include "deepseek_run/conversation.h"
#include "tools/io.h"
#include "tools/line_input.h"
#include "tools/message_reader.h"
#include "tools/options.h"
#include "tools/terminal_modes.h"

namespace dsr {

// Where a chat takes place.
struct ChatPlace {
  Engine& engine;
  const Tokenizer& tokenizer;
  const ChatFormat& format;
  LineInput& input;
  TerminalModes& modes;
  std::string model_dir;
  std::vector<ChatTool> tools;
};

// Answers go to standard output; all else, to standard error. A command that fails says so in a
// line and the chat goes on.
class Repl {
 public:
  Repl(const ChatPlace& place, Options options);

  // Until the user leaves; the exit code.
  int run(const std::optional<std::string>& first_turn);

 private:
  struct Command {
    std::string_view name;      // "/save"
    std::string_view argument;  // for the help; empty: it takes none
    std::string_view help;
    void (Repl::*run)(const std::string& argument);
  };
  static std::span<const Command> commands();
  static const Command* find_command(std::string_view line);

  void loop();
  bool is_gone() const;
  void handle(const ChatInput& input);
  void run_command(const std::string& line);
  void guarded(const std::function<void()>& work);

  void send(const std::string& text);
  void send_instead_of_last(const std::string& text);
  void answer(const std::function<Answer(const ChatSettings&,
                                         const std::function<bool(const AnswerPiece&)>&)>& ask);
  void conclude(const Answer& answer);
  ChatSettings settings() const;
  ReasoningMode reasoning() const;

  void help(const std::string&);
  void exit(const std::string&);
  void clear(const std::string&);
  void regenerate(const std::string&);
  void edit(const std::string&);
  void undo(const std::string&);
  void save(const std::string& path);
  void load(const std::string& path);
  void read_file(const std::string& path);
  void set_system(const std::string& text);
  void set(const std::string& assignment);
  void think(const std::string& mode);
  void stats(const std::string&);
  void tokens(const std::string& text);
  void show(const std::string& what);
  void plan(const std::string&);

  ChatPlace place_;
  Options options_;
  Conversation chat_;
  MessageReader reader_;
  Output out_;
  bool running_ = true, hung_up_ = false, output_lost_ = false;
  std::string attached_;  // files that go in front of the next message
  std::string prefill_;   // what the next line holds to begin with: /edit
  bool editing_ = false;  // the next message takes the last turn's place
  std::string session_path_;
  int64_t n_again_ = 0;  // how often the last turn was answered anew
  std::optional<Answer> last_;
};

// Whether the command line asks for a chat. Throws Error(kUsage) where flags exclude one.
bool wants_chat(const Options& options);

}  // namespace dsr
