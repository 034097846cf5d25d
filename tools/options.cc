// The flags and the commands: see option_table.h.
#include "tools/options.h"

#include <algorithm>
#include <array>
#include <limits>

#include "tools/option_table.h"
#include "tools/values.h"

namespace dsr {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

// Which commands have a flag: bits.
constexpr unsigned kAnswer = 1, kTokenize = 2, kLogits = 4, kInspect = 8, kPlan = 16, kMake = 32,
                   kVerify = 64, kBench = 1024, kBatch = 2048, kPerplexity = 4096;
constexpr unsigned kAsks = kAnswer | kBatch;
constexpr unsigned kRuns = kAnswer | kLogits, kComputes = kRuns | kBench | kBatch | kPerplexity;
constexpr unsigned kSized = kRuns | kPlan | kBatch | kPerplexity;
constexpr unsigned kAll =
    kAnswer | kTokenize | kLogits | kInspect | kPlan | kVerify | kBench | kBatch | kPerplexity;

void set_seed(Options& o, const std::string& v) {
  if (v == "-1") {
    o.sampling.seed.reset();
    return;
  }
  o.sampling.seed = parse_uint("--seed", v);
}

void set_predict(Options& o, const std::string& v) {
  o.predict = v == "-1" ? -1 : parse_int("--predict", v, 1, kMaxInt);
}

void set_think(Options& o, const std::string& v) {
  constexpr std::array kModes = {Thinking::kAuto, Thinking::kOn, Thinking::kOff};
  o.think = kModes[parse_choice("--think", v, {"auto", "on", "off"})];
}

void set_reasoning(Options& o, const std::string& v) {
  constexpr std::array kModes = {ReasoningMode::kShow, ReasoningMode::kHide,
                                 ReasoningMode::kSeparate};
  o.reasoning = kModes[parse_choice("--reasoning", v, {"show", "hide", "separate"})];
}

void set_truncate(Options& o, const std::string& v) {
  constexpr std::array kModes = {Truncate::kLeft, Truncate::kMiddle};
  o.truncate = kModes[parse_choice("--truncate", v, {"left", "middle"})];
}

void set_stop(Options& o, const std::string& v) {
  check_utf8("--stop", v);
  o.stop.push_back(v);
}

void set_format(Options& o, const std::string& v) {
  o.format = parse_choice("--format", v, {"text", "json"}) == 0 ? Format::kText : Format::kJson;
}

void set_cache_type(Options& o, const std::string& v) {
  parse_choice("--cache-type", v, {"auto", "f32", "bf16", "fp8"});
  o.cache_type = v;
}

void set_completion(Options& o, const std::string& v) {
  parse_choice("--completion", v, {"bash", "zsh", "fish"});
  o.completion = v;
}

void set_cpu_math(Options& o, const std::string& v) {
  parse_choice("--cpu-math", v, {"exact", "fast"});
  o.cpu_math = v;
}

void set_load_mode(Options& o, const std::string& v) {
  parse_choice("--load-mode", v, {"auto", "mmap", "read"});
  o.load_mode = v;
}

void set_bench_format(Options& o, const std::string& v) {
  constexpr std::array kFormats = {BenchFormat::kMarkdown, BenchFormat::kJson, BenchFormat::kJsonl,
                                   BenchFormat::kCsv};
  o.bench.format = kFormats[parse_choice("--format", v, {"md", "json", "jsonl", "csv"})];
}

void set_split(Options& o, const std::string& v) {
  constexpr std::array kModes = {BatchSplit::kLine, BatchSplit::kBlank};
  o.batch.split = kModes[parse_choice("--split", v, {"line", "blank"})];
}

// "2/4": the second of four parts.
void set_shard(Options& o, const std::string& v) {
  const size_t slash = v.find('/');
  if (slash == v.npos) fail_value("--shard", v, "I/N, for example 1/4");
  o.batch.n_shards = parse_int("--shard", v.substr(slash + 1), 1, 1 << 20);
  o.batch.shard = parse_int("--shard", v.substr(0, slash), 1, o.batch.n_shards) - 1;
}

using Text = const std::string&;

const std::array kRows = {
    Row{kAll, "Model", "-m,--model", "DIR",
        "directory, or org/name in the Hugging Face cache\n"
        "                              (default: $DEEPSEEK_RUN_MODEL, else models/tiny)",
        [](Options& o, Text v) { o.model.path = v; }},
    Row{kPlan | kMake | kBench, "Model", "--card", "FILE",
        "a model's config.json facts, as in models/; no model is needed then",
        [](Options& o, Text v) { o.card = v; }},
    Row{kPlan, "Model", "--weights", "bf16|fp8", "of a card (default: as released)",
        [](Options& o, Text v) { o.weights = v; }},
    Row{kMake | kBench, "Model", "--quant", "bf16|fp8",
        "type of the weights (default: as released)", [](Options& o, Text v) { o.weights = v; }},
    Row{kMake | kBench, "Model", "--layers", "N", "how many of the layers (default: all)",
        [](Options& o, Text v) { o.layers = parse_int("--layers", v, 1, 1024); }},
    Row{kPlan | kBench, "Model", "--gpus", "NxNAME",
        "such as 8xA100-80 (default: the memory of --device)",
        [](Options& o, Text v) { o.gpus = v; }},
    Row{kBatch, "Model", "--max-seqs", "N",
        "answers at a time (default: all records, at most 256)",
        [](Options& o, Text v) { o.max_seqs = parse_int("--max-seqs", v, 1, 1024); }},
    Row{kPlan, "Model", "--max-seqs", "N", "sequences at a time (default: 1)",
        [](Options& o, Text v) { o.max_seqs = parse_int("--max-seqs", v, 1, 1024); }},
    Row{kSized, "Model", "-c,--ctx-size", "N",
        "context in tokens (default: the model's, at most 32K, if it fits)",
        [](Options& o, Text v) { o.ctx_size = parse_int("--ctx-size", v, 1, kMaxInt); }},
    Row{kComputes | kPlan, "Model", "--device", "NAME",
        "auto, cuda, cuda:N, cpu or reference (default: auto, a GPU where there is one)",
        [](Options& o, Text v) { o.device = v; }},
    Row{kComputes, "Model", "-t,--threads", "N", "of the cpu (default: its physical cores)",
        [](Options& o, Text v) { o.threads = parse_int("--threads", v, 1, 1024); }},
    Row{kComputes, "Model", "--cpu-level", "auto|portable|avx2|avx512|avx512vbmi",
        "instructions of the cpu to use (default: auto, the best)",
        [](Options& o, Text v) { o.cpu_level = v; }},
    Row{kComputes, "Model", "--cpu-math", "exact|fast",
        "of the cpu: float32, or bf16 for prompts (default: exact)", set_cpu_math},
    Row{kComputes, "Model", "--cuda-arch", "N",
        "80: only what an A100 could run (default: the best that the GPU has)",
        [](Options& o, Text v) { o.cuda_arch = parse_int("--cuda-arch", v, 80, 999); }},
    Row{kComputes, "Model", "--load-mode", "auto|mmap|read",
        "weights read in place, or copied into huge pages (default: auto, which is mmap)",
        set_load_mode},
    Row{kSized | kBench, "Model", "--cache-type", "auto|f32|bf16|fp8",
        "of the KV cache (default: auto: bf16 on a GPU, else f32)", set_cache_type},
    Row{kSized | kBench, "Model", "--chunk", "N",
        "prompt tokens computed in one step (default: 2048 on a GPU, else 512)",
        [](Options& o, Text v) { o.chunk = parse_int("--chunk", v, 1, 1 << 16); }},
    Row{kAnswer, "Model", "--max-seqs", "N", "answers at a time (default: all of --n-samples)",
        [](Options& o, Text v) { o.max_seqs = parse_int("--max-seqs", v, 1, 1024); }},
    Row{kBench, "Model", "--random-weights", nullptr, "in the shape of --card, made in memory",
        [](Options& o, Text) { o.random_weights = true; }},
    Row{kBench, "Rows", "-p", "N,N", "tokens of a prompt; 0: none (default: 512)",
        [](Options& o, Text v) { o.bench.prompts = parse_ints("-p", v, 0, kMaxInt); }},
    Row{kBench, "Rows", "-n", "N,N", "tokens of an answer; 0: none (default: 128)",
        [](Options& o, Text v) { o.bench.generates = parse_ints("-n", v, 0, kMaxInt); }},
    Row{kBench, "Rows", "-d", "N,N", "depth: tokens in the cache before, made up (default: 0)",
        [](Options& o, Text v) { o.bench.depths = parse_ints("-d", v, 0, kMaxInt); }},
    Row{kBench, "Rows", "-B", "N,N", "sequences at a time (default: 1; with --serve-like 32)",
        [](Options& o, Text v) { o.bench.batches = parse_ints("-B", v, 1, 1024); }},
    Row{kBench, "Rows", "-r", "N", "repetitions (default: 5)",
        [](Options& o, Text v) { o.bench.repetitions = parse_int("-r", v, 1, 1000); }},
    Row{kBench, "Rows", "--warmup", "N", "runs before that do not count (default: 1)",
        [](Options& o, Text v) { o.bench.warmup = parse_int("--warmup", v, 0, 1000); }},

    Row{kAnswer | kTokenize | kLogits | kPerplexity, "Prompt", "-p,--prompt", "TEXT",
        "the prompt; - reads standard input", [](Options& o, Text v) { o.prompt = v; },
        From::kCommandLine},
    Row{kAnswer | kTokenize | kLogits | kPerplexity, "Prompt", "-f,--file", "FILE",
        "the prompt from a file, less one line break at its end",
        [](Options& o, Text v) { o.file = v; }, From::kCommandLine},
    Row{kRuns | kPerplexity, "Prompt", "--prompt-ids", "IDS",
        "the prompt as token ids: 1,2,3 or @FILE",
        [](Options& o, Text v) { o.prompt_ids = v; }, From::kCommandLine},
    Row{kAsks, "Prompt", "--system", "TEXT", "system prompt (default: none)",
        [](Options& o, Text v) { o.system = v; }},
    Row{kAsks, "Prompt", "--raw", nullptr, "no chat format: continue the prompt",
        [](Options& o, Text) { o.raw = true; }},
    Row{kAsks, "Prompt", "--chat-format", "NAME", "chat format (default: from the model)",
        [](Options& o, Text v) { o.chat_format = v; }},
    Row{kAnswer, "Prompt", "--tools", "FILE",
        "functions the model may call, as in the OpenAI API (deepseek-v3.1)",
        [](Options& o, Text v) { o.tools = v; }},
    Row{kAsks, "Prompt", "--think", "auto|on|off", "reason before answering (default: auto)",
        set_think},
    Row{kRuns | kPerplexity, "Prompt", "--bytes", nullptr,
        "the prompt may be any bytes; implies --raw",
        [](Options& o, Text) { o.bytes = o.raw = true; }},
    Row{kAnswer, "Prompt", "--allow-special", nullptr,
        "control tokens in the prompt's text are control tokens",
        [](Options& o, Text) { o.allow_special = true; }},
    Row{kAnswer, "Prompt", "--truncate", "left|middle",
        "cut a text that is too long there, so that -n tokens, else a quarter of the context, are "
        "free (default: refuse it)",
        set_truncate},
    Row{kAnswer, "Prompt", "--show-prompt", nullptr,
        "print the prompt as the model gets it and its ids, and leave",
        [](Options& o, Text) { o.show_prompt = true; }, From::kCommandLine},
    Row{kAnswer, "Prompt", "-i,--interactive", nullptr,
        "chat; a prompt is its first turn (default: on a terminal without a prompt)",
        [](Options& o, Text) { o.interactive = true; }, From::kCommandLine},

    Row{kAsks, "Sampling", "-n,--predict", "N", "most new tokens; -1: to the end (default: -1)",
        set_predict},
    Row{kAsks, "Sampling", "--temp", "T",
        "temperature; 0: greedy (default: the model's, else 0.6)",
        [](Options& o, Text v) { o.sampling.temperature = parse_real("--temp", v); }},
    Row{kAsks, "Sampling", "--top-k", "N", "0: off (default: the model's, else 0)",
        [](Options& o, Text v) { o.sampling.top_k = parse_int("--top-k", v, 0, kMaxInt); }},
    Row{kAsks, "Sampling", "--top-p", "P", "1: off (default: the model's, else 0.95)",
        [](Options& o, Text v) { o.sampling.top_p = parse_real("--top-p", v); }},
    Row{kAsks, "Sampling", "--min-p", "P", "0: off (default: 0)",
        [](Options& o, Text v) { o.sampling.min_p = parse_real("--min-p", v); }},
    Row{kAnswer, "Sampling", "-s,--seed", "N", "-1: random, -v shows it (default: -1)", set_seed},
    Row{kBatch, "Sampling", "-s,--seed", "N", "of records that name none (default: 0)", set_seed},
    Row{kMake, "Sampling", "-s,--seed", "N", "the same seed makes the same files (default: 0)",
        set_seed},
    Row{kAsks, "Sampling", "--repeat-penalty", "X", "1: off (default: the model's, else 1)",
        [](Options& o, Text v) {
          o.sampling.repetition_penalty = parse_real("--repeat-penalty", v);
        }},
    Row{kAsks, "Sampling", "--repeat-last-n", "N",
        "tokens the penalties look back on; -1: all\n"
        "                              (default: 64; all where the model sets the penalty)",
        [](Options& o, Text v) {
          o.sampling.penalty_window = parse_int("--repeat-last-n", v, -1, kMaxInt);
        }},
    Row{kAsks, "Sampling", "--presence-penalty", "X", "0: off (default: 0)",
        [](Options& o, Text v) {
          o.sampling.presence_penalty = parse_real("--presence-penalty", v);
        }},
    Row{kAsks, "Sampling", "--frequency-penalty", "X", "0: off (default: 0)",
        [](Options& o, Text v) {
          o.sampling.frequency_penalty = parse_real("--frequency-penalty", v);
        }},
    Row{kAsks, "Sampling", "--dry-multiplier", "X",
        "DRY, against repeated phrases; 0: off, 0.8: usual (default: 0)",
        [](Options& o, Text v) { o.sampling.dry_multiplier = parse_real("--dry-multiplier", v); }},
    Row{kAsks, "Sampling", "--dry-base", "X",
        "how it grows with the length of a repetition (default: 1.75)",
        [](Options& o, Text v) { o.sampling.dry_base = parse_real("--dry-base", v); }},
    Row{kAsks, "Sampling", "--dry-allowed-length", "N",
        "tokens that may repeat before it counts (default: 2)",
        [](Options& o, Text v) {
          o.sampling.dry_allowed_length = parse_int("--dry-allowed-length", v, 1, kMaxInt);
        }},
    Row{kAsks, "Sampling", "-l,--logit-bias", "ID+B",
        "add B to the logit of a token; ID-B subtracts; repeatable",
        [](Options& o,
           Text v) { o.sampling.logit_bias.push_back(parse_logit_bias("--logit-bias", v)); }},
    Row{kAsks, "Sampling", "--stop", "TEXT", "end the answer before this text; repeatable",
        set_stop},
    Row{kAsks, "Sampling", "--loop-guard", "on|off",
        "end an answer that says one thing over and over (default: on)",
        [](Options& o, Text v) {
          o.sampling.loop_guard = parse_choice("--loop-guard", v, {"off", "on"}) == 1;
        }},
    Row{kAnswer, "Sampling", "--n-samples", "N", "answers to the prompt, side by side (default: 1)",
        [](Options& o, Text v) { o.n_samples = parse_int("--n-samples", v, 1, 1024); }},

    Row{kPerplexity, "Prompt", "--stride", "N",
        "tokens from one window of -c to the next (default: half of -c, at most 4096)",
        [](Options& o, Text v) { o.stride = parse_int("--stride", v, 1, kMaxInt); }},
    Row{kBench, "Rows", "--serve-like", "R,R",
        "requests of -p and -n tokens that arrive at random, R a second; inf: all at once",
        [](Options& o, Text v) { o.bench.serve_rates = parse_reals("--serve-like", v); }},
    Row{kBench, "Rows", "--requests", "N", "of --serve-like, each repetition (default: 64)",
        [](Options& o, Text v) {
          o.bench.serve_requests = parse_int("--requests", v, 1, 1 << 20);
        }},
    Row{kBench, "Rows", "--memory-table", nullptr,
        "memory by batch size and sequence length; of a card alone, or for GPUs: planned",
        [](Options& o, Text) { o.bench.memory_table = true; }},
    Row{kBench, "Rows", "--compare", "FILE",
        "an earlier report in json; exit code 9: slower by more than the noise",
        [](Options& o, Text v) { o.bench.compare = v; }, From::kCommandLine},
    Row{kBatch, "Batch", "--input", "FILE", "the prompts; the flag's name may be left out",
        [](Options& o, Text v) { o.batch.input = v; }, From::kCommandLine},
    Row{kBatch, "Batch", "-o,--output", "FILE", "the records; an unfinished file is continued",
        [](Options& o, Text v) { o.batch.output = v; }, From::kCommandLine},
    Row{kBatch, "Batch", "--split", "line|blank",
        "plain text: a prompt each line, or blank lines between\n"
        "                              (default: JSON lines)",
        set_split},
    Row{kBatch, "Batch", "--ordered", nullptr, "at the end, put the records in the input's order",
        [](Options& o, Text) { o.batch.ordered = true; }},
    Row{kBatch, "Batch", "--restart", nullptr, "forget what an earlier run wrote",
        [](Options& o, Text) { o.batch.restart = true; }, From::kCommandLine},
    Row{kBatch, "Batch", "--retry-errors", nullptr, "run records again that ended in an error",
        [](Options& o, Text) { o.batch.retry_errors = true; }, From::kCommandLine},
    Row{kBatch, "Batch", "--shard", "I/N", "only the I-th of N parts of the input", set_shard},

    Row{kTokenize, "Output", "--count", nullptr, "print how many tokens there are",
        [](Options& o, Text) { o.count = true; }},
    Row{kTokenize, "Output", "--json", nullptr, "print {count, ids, pieces}",
        [](Options& o, Text) { o.format = Format::kJson; }},
    Row{kTokenize, "Output", "--jsonl", nullptr,
        "lines {\"text\"} in, lines {\"ids\"} out; a bad one: {\"error\"}, exit 7",
        [](Options& o, Text) { o.jsonl = true; }},
    Row{kTokenize, "Output", "--add-bos", nullptr, "put the begin-of-sequence token in front",
        [](Options& o, Text) { o.add_bos = true; }},
    Row{kMake, "Output", "-o,--output", "DIR", "a new directory",
        [](Options& o, Text v) { o.output = v; }, From::kCommandLine},
    Row{kRuns | kBench | kPerplexity, "Output", "-o,--output", "FILE",
        "write to a file (default: standard output)", [](Options& o, Text v) { o.output = v; },
        From::kCommandLine},
    Row{kAnswer | kInspect | kPlan | kPerplexity, "Output", "--format", "text|json",
        "(default: text)", set_format},
    Row{kAsks, "Output", "--logprobs", "N",
        "with json: log-probabilities of each token and of the N likeliest",
        [](Options& o, Text v) { o.sampling.logprobs = parse_int("--logprobs", v, 0, kMaxInt); }},
    Row{kBench, "Output", "--format", "md|json|jsonl|csv", "(default: md)", set_bench_format},
    Row{kAnswer, "Output", "--reasoning", "show|hide|separate",
        "what to do with it (default: show; with json separate)", set_reasoning},
    Row{kAnswer, "Output", "--strict-tty", nullptr,
        "on a terminal show characters that reorder text or have no width",
        [](Options& o, Text) { o.strict_tty = true; }},
    Row{kRuns | kBatch | kPerplexity, "Output", "--debug-nan", nullptr,
        "look at what every op writes; the first number that is not finite\n"
        "                              is an error that names its layer and op (slow)",
        [](Options& o, Text) { o.debug_nan = true; }},
    Row{kAnswer, "Output", "--no-timings", nullptr, "no line of timings",
        [](Options& o, Text) { o.timings = false; }},
    Row{kAnswer, "Output", "-v,--verbose", nullptr,
        "also show the seed and what the memory is used for",
        [](Options& o, Text) { o.verbose = true; }},
    Row{kAll | kMake, "Output", "-q,--quiet", nullptr, "nothing on standard error but errors",
        [](Options& o, Text) { o.quiet = true; }},
    Row{kAll | kMake, "Settings", "--config", "FILE",
        "settings: lines \"temp = 0.7\", names as here; # begins a comment",
        [](Options& o, Text v) { o.config = v; }, From::kEnvironment},
    Row{kAll | kMake, "Settings", "--print-config", nullptr,
        "print each setting and where it comes from, as such a file, and leave",
        [](Options& o, Text) { o.print_config = true; }, From::kCommandLine},
    Row{kAll | kMake, "Information", "-h,--help", "[=WORD]",
        "print this help; with a word the lines, of all commands, that hold it",
        [](Options& o, Text v) { o.help = v; }, From::kCommandLine},
    Row{kAll | kMake, "Information", "--version", nullptr, "print the version",
        [](Options& o, Text) { o.version = true; }, From::kCommandLine},
    Row{kAnswer, "Information", "--list-devices", nullptr, "print what --device can name here",
        [](Options& o, Text) { o.list_devices = true; }, From::kCommandLine},
    Row{kAnswer, "Information", "--completion", "bash|zsh|fish",
        "print the shell's completion of these flags", set_completion, From::kCommandLine},
    Row{kAnswer, "Hidden", "--man", nullptr, "print the manual page",
        [](Options& o, Text) { o.man = true; }, From::kCommandLine},
};

constexpr std::array kCommands = {
    CommandRow{"", Command::kAnswer, kAnswer,
               "Runs a DeepSeek checkpoint as published and prints the answer to a prompt, which\n"
               "comes from -p, -f or standard input.",
               "deepseek-run [-m DIR] -p TEXT [flags]"},
    CommandRow{"tokenize", Command::kTokenize, kTokenize,
               "Prints the token ids of a text and their pieces, one token a line. The model\n"
               "directory needs no more than tokenizer.json.",
               "deepseek-run tokenize [-m DIR] -p TEXT [flags]"},
    CommandRow{"logits", Command::kLogits, kLogits,
               "Writes the logits of every position of a prompt: float32 [tokens, vocabulary] in\n"
               "NumPy's .npy format. Text is not put in a chat format.",
               "deepseek-run logits [-m DIR] --prompt-ids IDS -o FILE [flags]"},
    CommandRow{"inspect", Command::kInspect, kInspect,
               "Prints what a checkpoint holds: architecture, sizes by part, tensors.",
               "deepseek-run inspect [-m DIR] [flags]"},
    CommandRow{
        "plan", Command::kPlan, kPlan,
        "Prints what a model will need in memory, by part, whether that fits, and what would\n"
        "make it fit. Reads no weights and needs no GPU. Exit code 4: it does not fit.",
        "deepseek-run plan [-m DIR | --card FILE] [--gpus NxNAME] [flags]"},
    CommandRow{
        "verify", Command::kVerify, kVerify,
        "Reads every weight file and compares it with the SHA-256 that the Hugging Face cache\n"
        "names it by; counts FP8 values that are NaN. Exit code 3: a file differs.",
        "deepseek-run verify [-m DIR]"},
    CommandRow{
        "bench", Command::kBench, kBench,
        "Measures prompts and answers by length, depth and batch size, beside what the machine's\n"
        "memory and arithmetic would allow, measured in the same process.",
        "deepseek-run bench [-m DIR | --random-weights --card FILE] [flags]"},
    CommandRow{
        "make-random-checkpoint", Command::kMakeRandomCheckpoint, kMake,
        "Writes a checkpoint of random weights in the shape of a published one: config.json\n"
        "and safetensors files, no tokenizer. It loads and runs like the real one (with\n"
        "--prompt-ids --format json) and says nothing; for measuring speed and memory.",
        "deepseek-run make-random-checkpoint --card FILE -o DIR [flags]"},
    CommandRow{
        "batch", Command::kBatch, kBatch,
        "Answers a file of prompts: OpenAI batch lines, {\"prompt\"} or {\"messages\"} lines, or\n"
        "plain text. Records are appended as they finish; the same command continues a file\n"
        "that was left unfinished. Exit code 7: some records are errors.",
        "deepseek-run batch [-m DIR] IN -o OUT [flags]"},
    CommandRow{
        "perplexity", Command::kPerplexity, kPerplexity,
        "Prints how well the model predicts a text, with the standard error. Long texts are read\n"
        "in windows of -c tokens (default: the model's context, at most 4096). -o writes the\n"
        "log-probability of every token, a JSON line each.",
        "deepseek-run perplexity [-m DIR] -f FILE [flags]"},
};

}  // namespace

void SamplingFlags::apply_to(SamplingParams& p) const {
  p.temperature = temperature.value_or(p.temperature);
  p.top_k = top_k.value_or(p.top_k);
  p.top_p = top_p.value_or(p.top_p);
  p.min_p = min_p.value_or(p.min_p);
  p.repetition_penalty = repetition_penalty.value_or(p.repetition_penalty);
  p.presence_penalty = presence_penalty.value_or(p.presence_penalty);
  p.frequency_penalty = frequency_penalty.value_or(p.frequency_penalty);
  p.penalty_window = penalty_window.value_or(p.penalty_window);
  p.dry_multiplier = dry_multiplier.value_or(p.dry_multiplier);
  p.dry_base = dry_base.value_or(p.dry_base);
  p.dry_allowed_length = dry_allowed_length.value_or(p.dry_allowed_length);
  p.logprobs = logprobs.value_or(p.logprobs);
  p.loop_guard = loop_guard.value_or(p.loop_guard);
  if (!logit_bias.empty()) p.logit_bias = logit_bias;
  p.seed = seed.value_or(p.seed);
}

std::span<const Row> option_rows() { return kRows; }
std::span<const CommandRow> command_rows() { return kCommands; }

}  // namespace dsr
