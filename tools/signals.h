// Signals. The one piece of static state of the program lives in signals.cc.
#pragma once

struct termios;

namespace dsr {

// SIGINT, SIGTERM and SIGHUP ask to stop; a second one, or not coming to an end within 0.4 s, ends
// the process at once with 128 + n. Everything that was answered is written by then: output is
// never held back. SIGPIPE ends the process as the shell expects. SIGBUS (a mapped file became
// shorter or could not be read) says which file and where, and exits with 3.
void install_signal_handlers();

// The signal that asked to stop, or 0.
int stop_signal();
// The request is being heard: what is left to do (writing the last of the answer) has no time
// limit.
void acknowledge_stop();

// Thrown where waiting for a file was cut short by a request to stop. No failure: the process ends
// with 128 + stop_signal().
struct Interrupted {};

// While one lives, the time limit of a request to stop waits: what is being written gets whole. A
// second signal still ends the process at once.
class WholeRecord {
 public:
  WholeRecord();
  WholeRecord(const WholeRecord&) = delete;
  WholeRecord& operator=(const WholeRecord&) = delete;
  ~WholeRecord();
};

// A chat: while one lives, SIGINT does not ask to stop, it interrupts. One that comes within a
// second after another asks to stop. A change of the terminal's size, or coming back from the
// background, cuts waiting short too.
class ChatSignals {
 public:
  ChatSignals();
  ChatSignals(const ChatSignals&) = delete;
  ChatSignals& operator=(const ChatSignals&) = delete;
  ~ChatSignals();
};
// Whether one came since the last call.
bool take_interrupt();
bool take_terminal_change();

// While one lives, SIGINT is for another program on this terminal.
class IgnoredInterrupts {
 public:
  IgnoredInterrupts();
  IgnoredInterrupts(const IgnoredInterrupts&) = delete;
  IgnoredInterrupts& operator=(const IgnoredInterrupts&) = delete;
  ~IgnoredInterrupts();

 private:
  void (*before_)(int);
};

// Where a signal ends the process at once, the terminal gets these modes and these bytes first.
// Both must live until forget_terminal().
void restore_terminal_at_exit(int fd, const termios& modes, const char* bytes);
void forget_terminal();

}  // namespace dsr
