// A tokenizer.model through the sentencepiece library, for checkpoints that ship no tokenizer.json.
//
// The library segments the text; we cut it at the control tokens first, which it never looks for.
// Its pieces write a space as U+2581, and bytes that no piece has as <0xNN>.
#include <sentencepiece_processor.h>

#include "base/error.h"
#include "base/utf8.h"
#include "text/tokenizer_impl.h"

namespace dsr {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";
constexpr int kMaxPieces = 1 << 20;

std::string with_spaces(std::string_view piece) {
  std::string out;
  while (!piece.empty()) {
    if (piece.starts_with(kSpaceMark)) {
      out += ' ';
      piece.remove_prefix(kSpaceMark.size());
    } else {
      out += piece[0];
      piece.remove_prefix(1);
    }
  }
  return out;
}

// "<0x41>"
char byte_of(const std::string& piece) {
  return static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16));
}

class SentencePieceTokenizer : public Tokenizer::Impl {
 public:
  SentencePieceTokenizer(std::string_view model, const std::string& path, const Json* config)
      : added_(load(model, path, config)), matcher_(added_) {
    for (const AddedToken& t : added_) mark_special(t.id, t.special);
    if (processor_.bos_id() >= 0) bos_id = processor_.bos_id();
    if (processor_.eos_id() >= 0) eos_id = processor_.eos_id();
    // The model says so by what it makes of a letter.
    std::vector<int> ids;
    check(processor_.Encode("a", &ids), "cannot encode");
    space_in_front_ = !ids.empty() && bytes_.of(ids[0]).starts_with(' ');
  }

  void encode(std::string_view text, std::span<const ByteRange> literal,
              std::vector<TokenId>& out) const override {
    cut(matcher_, text, {0, std::ssize(text)}, literal, out, [&](size_t begin, size_t end) {
      if (begin == end) return;
      std::vector<int> ids;
      check(processor_.Encode(absl_view(text.substr(begin, end - begin)), &ids), "cannot encode");
      for (const int id : ids) {
        if (is_symbol_[static_cast<size_t>(id)]) refuse_if_literal(id, text, begin, end, literal);
      }
      out.insert(out.end(), ids.begin(), ids.end());
    });
  }

  std::optional<TokenId> find(std::string_view bytes) const override {
    if (bytes.empty()) return std::nullopt;
    if (const auto id = matcher_.find(bytes)) return id;
    std::string piece;
    for (const char c : bytes) piece += c == ' ' ? std::string(kSpaceMark) : std::string(1, c);
    const int id = processor_.PieceToId(piece);
    return processor_.IsUnknown(id) ? std::nullopt : std::optional<TokenId>(id);
  }

  bool puts_space_in_front() const override { return space_in_front_; }

 private:
  using Status = sentencepiece::util::Status;

  static absl::string_view absl_view(std::string_view s) { return {s.data(), s.size()}; }

  static void check(const Status& status, std::string_view what) {
    if (!status.ok()) fail_model("sentencepiece ", what, ": ", escaped(status.ToString()));
  }

  // Fills the tables and gives the tokens to cut texts at: the model's control pieces, and what the
  // checkpoint's tokenizer_config.json adds.
  std::vector<AddedToken> load(std::string_view model, const std::string& path,
                               const Json* config) {
    if (const Status status = processor_.LoadFromSerializedProto(absl_view(model)); !status.ok())
      fail_model(path, ": not a sentencepiece model: ", escaped(status.ToString()));
    const int n = processor_.GetPieceSize();
    if (n < 1 || n > kMaxPieces)
      fail_model(path, " has ", n, " pieces, at most ", with_commas(kMaxPieces), " are accepted");
    std::vector<AddedToken> tokens;
    for (int id = 0; id < n; ++id) {
      const std::string& piece = processor_.IdToPiece(id);
      if (piece.empty()) continue;
      if (processor_.IsControl(id)) {
        bytes_.add(id, piece);
        tokens.push_back({id, piece, /*special=*/true, /*normalized=*/false});
      } else if (processor_.IsByte(id)) {
        bytes_.add(id, std::string(1, byte_of(piece)));
      } else {
        // The library's own text for what it does not know has spaces around it; ours has not.
        bytes_.add(id, processor_.IsUnknown(id) ? "\u2047" : with_spaces(piece));
      }
    }
    find_symbols();
    if (config != nullptr) add_from_config(*config, tokens);
    return tokens;
  }

  // Symbols that whoever trained the model defined: the library finds them in any text. (It has no
  // question for them, but gives them a score of 0, and pieces that were learned none so high.)
  void find_symbols() {
    is_symbol_.resize(static_cast<size_t>(processor_.GetPieceSize()));
    for (TokenId id = 0; id < processor_.GetPieceSize(); ++id) {
      const std::string_view piece = bytes_.of(id);
      is_symbol_[static_cast<size_t>(id)] = piece.size() > 2 && piece.starts_with('<') &&
                                            piece.ends_with('>') && processor_.GetScore(id) == 0 &&
                                            !processor_.IsControl(id) && !processor_.IsByte(id) &&
                                            !processor_.IsUnknown(id);
    }
  }

  void add_from_config(const Json& config, std::vector<AddedToken>& tokens) {
    const Json* decoder = config.is_object() ? config.find("added_tokens_decoder") : nullptr;
    if (decoder == nullptr || !decoder->is_object()) return;
    Json list = Json::array();
    for (const auto& [id, token] : decoder->as_object().members) {
      if (!token.is_object() || id.empty() || id.size() > 7 ||
          id.find_first_not_of("0123456789") != id.npos)
        fail_model("tokenizer_config.json: added_tokens_decoder: ", quoted(id), " is not an id");
      Json one = Json::object();
      one.set("id", int64_t{std::stoi(id)});
      for (const char* key : {"content", "special", "normalized"}) {
        if (const Json* value = token.find(key)) one.set(key, *value);
      }
      list.push_back(std::move(one));
    }
    for (AddedToken& t : read_added_tokens(list, "tokenizer_config.json: added_tokens_decoder")) {
      const bool in_model = bytes_.has(t.id);
      if (in_model && bytes_.of(t.id) != t.content) {
        if (!processor_.IsUnknown(t.id))
          fail_model("tokenizer_config.json: added_tokens_decoder: ", t.id, " is ",
                     quoted(t.content), ", in tokenizer.model ", quoted(bytes_.of(t.id)));
        continue;
      }
      if (in_model && processor_.IsControl(t.id)) continue;
      if (!in_model) bytes_.add(t.id, t.content);
      if (in_model) is_symbol_[static_cast<size_t>(t.id)] = false;
      tokens.push_back(std::move(t));
    }
  }

  // A symbol in [begin, end) of `text` that touches what a user typed would become a control token.
  void refuse_if_literal(int id, std::string_view text, size_t begin, size_t end,
                         std::span<const ByteRange> literal) const {
    const std::string_view symbol = bytes_.of(id);
    for (size_t at = begin; (at = text.find(symbol, at)) < end; ++at) {
      for (const ByteRange& r : literal) {
        if (r.begin < static_cast<int64_t>(at + symbol.size()) && static_cast<int64_t>(at) < r.end)
          fail_usage("text: ", quoted(symbol),
                     " is a symbol that this sentencepiece model finds in any text"
                     "\n  try: --allow-special");
      }
    }
  }

  sentencepiece::SentencePieceProcessor processor_;
  std::vector<bool> is_symbol_;  // by id
  std::vector<AddedToken> added_;
  AddedTokenMatcher matcher_;
  bool space_in_front_ = false;
};

}  // namespace

std::unique_ptr<Tokenizer::Impl> make_sentencepiece_tokenizer(std::string_view model,
                                                              const std::string& path,
                                                              const Json* config) {
  return std::make_unique<SentencePieceTokenizer>(model, path, config);
}

}  // namespace dsr
