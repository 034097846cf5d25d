// Line editing on libedit. It reads its characters from us, so that signals, changes of the
// terminal and pastes are ours; it knows the keys and draws the line.
#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdint>
#include <cstdio>
#include <cwchar>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "tools/input_bytes.h"
#include "tools/input_history.h"
#include "tools/line_input.h"
#include "tools/terminal.h"

namespace dsr {
namespace {

constexpr std::wstring_view kPasteBegin = L"\x1b[200~";  // a terminal says that a paste begins
constexpr std::wstring_view kLineIsDone = L"\x1b[299~";  // no terminal says that
constexpr std::string_view kPasteEnd = "\x1b[201~";
constexpr size_t kMaxPasteBytes = size_t{64} << 20;
constexpr int kHistoryEntries = 1000;
constexpr wchar_t kReplacement = 0xFFFD;

// One character in UTF-8; what is no character becomes U+FFFD.
void append_utf8(std::string& out, wchar_t c) {
  auto u = static_cast<uint32_t>(c);
  if (u > 0x10FFFF || (u >= 0xD800 && u < 0xE000)) u = kReplacement;
  const auto byte = [&](uint32_t value) { out += static_cast<char>(value); };
  if (u < 0x80) return byte(u);
  if (u < 0x800) {
    byte(0xC0 | u >> 6);
  } else if (u < 0x10000) {
    byte(0xE0 | u >> 12);
    byte(0x80 | (u >> 6 & 0x3F));
  } else {
    byte(0xF0 | u >> 18);
    byte(0x80 | (u >> 12 & 0x3F));
    byte(0x80 | (u >> 6 & 0x3F));
  }
  byte(0x80 | (u & 0x3F));
}

std::string narrow(std::wstring_view text) {
  std::string out;
  for (const wchar_t c : text) append_utf8(out, c);
  return out;
}

// The character that `text` holds, alone.
wchar_t wide_character(std::string_view text) {
  if (utf8_length(text) != text.size()) return kReplacement;
  const auto first = static_cast<unsigned char>(text[0]);
  if (text.size() == 1) return first;
  uint32_t out = first & (0x7FU >> text.size());
  for (const char c : text.substr(1)) out = out << 6 | (static_cast<unsigned char>(c) & 0x3F);
  return static_cast<wchar_t>(out);
}

std::wstring widen(std::string_view text) {
  std::wstring out;
  while (!text.empty()) {
    const size_t n = std::max<size_t>(utf8_length(text), 1);
    out += wide_character(text.substr(0, n));
    text.remove_prefix(n);
  }
  return out;
}

// A terminal sends carriage returns in a paste.
std::string with_line_feeds(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && text.substr(i + 1).starts_with('\n')) continue;
    out += text[i] == '\r' ? '\n' : text[i];
  }
  return out;
}

// libedit draws what it takes for printable in the locale. Numbers are never read or written by it.
void use_utf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(::nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

class LineEditor : public LineInput {
 public:
  explicit LineEditor(int screen) : bytes_(STDIN_FILENO), file_(::fdopen(::dup(screen), "w")) {
    use_utf8();
    editor_ = file_ == nullptr
                  ? nullptr
                  : ::el_init_fd("deepseek-run", stdin, file_, file_, STDIN_FILENO, screen, screen);
    history_ = ::history_winit();
    if (editor_ == nullptr || history_ == nullptr) throw std::runtime_error("no line editor");
    configure();
    for (const std::string& entry : saved_.load()) enter(entry);
  }
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;
  ~LineEditor() override {
    ::el_end(editor_);
    ::history_wend(history_);
    std::fclose(file_);
  }

  InputLine read(const std::string& prompt, const std::string& prefill) override {
    prompt_ = widen(prompt);
    prefill_ = widen(prefill);
    if (!prefill.empty()) queue_ = kPasteBegin;  // it takes the way of a paste
    event_ = InputLine::Event::kLine;
    write(kPasteOn);
    int n = 0;
    const wchar_t* line = ::el_wgets(editor_, &n);
    std::fflush(file_);
    write(kPasteOff);
    if (event_ == InputLine::Event::kPaste) return {event_, std::move(pasted_)};
    if (event_ == InputLine::Event::kInterrupt) write("^C\r\n");
    if (line == nullptr && event_ == InputLine::Event::kLine) {
      event_ = InputLine::Event::kEnd;
      write("\r\n");
    }
    if (event_ != InputLine::Event::kLine) return {event_, ""};
    std::string text = narrow({line, static_cast<size_t>(n)});
    if (text.ends_with('\n') || text.ends_with('\r')) text.pop_back();
    return {event_, std::move(text)};
  }

  bool can_prefill() const override { return true; }
  bool more_within(int milliseconds) const override { return bytes_.more_within(milliseconds); }

  void remember(const std::string& entry) override {
    enter(entry);
    saved_.add(entry);
  }

  void show(const std::string& text) override { write(visible(text)); }

 private:
  static LineEditor& of(EditLine* editor) {
    void* self = nullptr;
    ::el_wget(editor, EL_CLIENTDATA, &self);
    return *static_cast<LineEditor*>(self);
  }

  void configure() {
    ::el_wset(editor_, EL_CLIENTDATA, static_cast<void*>(this));
    ::el_wset(editor_, EL_EDITOR, L"emacs");
    ::el_wset(editor_, EL_HIST, ::history_w, history_);
    HistEventW ignored;
    ::history_w(history_, &ignored, H_SETSIZE, kHistoryEntries);
    ::history_w(history_, &ignored, H_SETUNIQUE, 1);
    ::el_wset(
        editor_, EL_PROMPT,
        +[](EditLine* editor) -> wchar_t* { return of(editor).prompt_.data(); });
    ::el_wset(
        editor_, EL_GETCFN, +[](EditLine* editor, wchar_t* c) { return of(editor).get(*c); });
    ::el_wset(
        editor_, EL_ADDFN, L"dsr-paste", L"take a paste",
        +[](EditLine* editor, wint_t) { return of(editor).paste(); });
    ::el_wset(editor_, EL_BIND, L"\\e[200~", L"dsr-paste", nullptr);
    ::el_wset(
        editor_, EL_ADDFN, L"dsr-done", L"end the line where the cursor is",
        +[](EditLine*, wint_t) -> unsigned char { return CC_NEWLINE; });
    ::el_wset(editor_, EL_BIND, L"\\e[299~", L"dsr-done", nullptr);
    ::el_wset(editor_, EL_BIND, L"^R", L"em-inc-search-prev", nullptr);
    for (const auto& [key, command] : kKeys) ::el_wset(editor_, EL_BIND, key, command, nullptr);
    // Carriage returns and line feeds as they come: libedit would have them swapped.
    ::el_set(editor_, EL_SETTY, "-d", "-inlcr", "-icrnl", nullptr);
    // Between two lines the terminal stays quiet, as we were given it.
    ::el_set(editor_, EL_SETTY, "-x", "-echo", "-icanon", "-icrnl", "+noflsh", nullptr);
  }

  // libedit's getc: 1, 0 at the end, -1 where el_wgets is to give up.
  int get(wchar_t& out) {
    if (!queue_.empty()) {
      out = queue_.front();
      queue_.erase(0, 1);
      return 1;
    }
    std::string character;
    char byte = 0;
    while (true) {
      const InputEvent event = bytes_.next(byte);
      if (event == InputEvent::kTerminalChange) {
        ::el_set(editor_, EL_PREP_TERM, 1);
        ::el_resize(editor_);
        ::el_set(editor_, EL_REFRESH);
        continue;
      }
      if (event != InputEvent::kByte) return give_up(event);
      const bool second = std::exchange(last_, byte) == '\r' && byte == '\n';
      if (second && character.empty()) continue;  // "\r\n" is one line break
      character += byte;
      if (is_whole(character)) break;
    }
    out = wide_character(character);
    return 1;
  }

  int give_up(InputEvent event) {
    if (event == InputEvent::kEnd) return 0;
    event_ =
        event == InputEvent::kInterrupt ? InputLine::Event::kInterrupt : InputLine::Event::kStop;
    return -1;
  }

  // Whether these bytes are a character, or cannot become one.
  static bool is_whole(std::string_view bytes) {
    const auto first = static_cast<unsigned char>(bytes[0]);
    const size_t wanted = first < 0xC2   ? 1
                          : first < 0xE0 ? 2
                          : first < 0xF0 ? 3
                          : first < 0xF5 ? 4
                                         : 1;
    const bool broken =
        bytes.size() > 1 && (static_cast<unsigned char>(bytes.back()) & 0xC0) != 0x80;
    return bytes.size() == wanted || broken;
  }

  unsigned char paste() {
    if (!prefill_.empty()) {
      ::el_winsertstr(editor_, std::exchange(prefill_, {}).c_str());
      return CC_REFRESH;
    }
    std::string text;
    char byte = 0;
    while (!text.ends_with(kPasteEnd)) {
      const InputEvent event = bytes_.next(byte);
      if (event == InputEvent::kTerminalChange) continue;
      if (event != InputEvent::kByte) {
        give_up(event);
        return CC_EOF;
      }
      if (text.size() < kMaxPasteBytes + kPasteEnd.size()) text += byte;
    }
    text = with_line_feeds(std::string_view(text).substr(0, text.size() - kPasteEnd.size()));
    if (text.find('\n') != text.npos) return end_line_with(text);
    ::el_winsertstr(editor_, widen(text).c_str());
    return CC_REFRESH;
  }

  // The line around the cursor and the paste go to the caller; the line on the screen is empty.
  unsigned char end_line_with(const std::string& text) {
    const LineInfoW* line = ::el_wline(editor_);
    const std::wstring_view before(line->buffer, static_cast<size_t>(line->cursor - line->buffer));
    const std::wstring_view after(line->cursor, static_cast<size_t>(line->lastchar - line->cursor));
    pasted_ = narrow(before) + text + narrow(after);
    const auto size = static_cast<int>(before.size() + after.size());
    ::el_cursor(editor_, static_cast<int>(after.size()));
    ::el_deletestr(editor_, size);
    event_ = InputLine::Event::kPaste;
    queue_ = kLineIsDone;  // when libedit has drawn the empty line
    return CC_REFRESH;
  }

  void enter(const std::string& entry) {
    HistEventW ignored;
    ::history_w(history_, &ignored, H_ENTER, widen(entry).c_str());
  }

  void write(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), file_);
    std::fflush(file_);
  }

  // What terminals send for keys that the terminal's description may lack.
  static constexpr std::pair<const wchar_t*, const wchar_t*> kKeys[] = {
      {L"\\e[H", L"ed-move-to-beg"},       {L"\\e[F", L"ed-move-to-end"},
      {L"\\e[1~", L"ed-move-to-beg"},      {L"\\e[4~", L"ed-move-to-end"},
      {L"\\e[3~", L"ed-delete-next-char"}, {L"\\e[1;5C", L"em-next-word"},
      {L"\\e[1;5D", L"ed-prev-word"},
  };

  InputBytes bytes_;
  FILE* file_;
  EditLine* editor_ = nullptr;
  HistoryW* history_ = nullptr;
  InputHistory saved_;
  std::wstring prompt_, prefill_, queue_;
  InputLine::Event event_ = InputLine::Event::kLine;
  std::string pasted_;
  char last_ = 0;
};

}  // namespace

std::unique_ptr<LineInput> make_line_editor(int screen) {
  return std::make_unique<LineEditor>(screen);
}

}  // namespace dsr
