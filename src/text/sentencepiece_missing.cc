// A tokenizer.model in a build without sentencepiece.
#include "base/error.h"
#include "text/tokenizer_impl.h"

namespace dsr {

std::unique_ptr<Tokenizer::Impl> make_sentencepiece_tokenizer(std::string_view,
                                                              const std::string& path,
                                                              const Json*) {
  fail_model(path,
             ": this build has no sentencepiece to read it"
             "\n  try: apt-get install libsentencepiece-dev, and build again");
}

}  // namespace dsr
