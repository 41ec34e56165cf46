#include "config/train_config_fields.h"

#include <array>

namespace stableqat {

namespace {

using Method = TrainConfig::Method;
using ScaleInit = TrainConfig::ScaleInit;
using ExportGrid = TrainConfig::ExportGrid;
using Scheduler = TrainConfig::Scheduler;
using Precision = TrainConfig::Precision;
using Compute = TrainConfig::Compute;
using Device = TrainConfig::Device;
using Recompute = TrainConfig::Recompute;
using Moments = TrainConfig::Moments;
using StoredScales = TrainConfig::StoredScales;
using ReportTo = TrainConfig::ReportTo;
using Reduce = TrainConfig::Reduce;

void add_model(TrainConfig::Model& model, std::vector<Field>& rows) {
  rows.push_back({.key = "model.path",
                  .target = &model.path,
                  .help = "Model to start from: Hugging Face folder, GGUF file or checkpoint; required.",
                  .aliases = {"model_path"}});
}

void add_quantization(TrainConfig::Quantization& quantization, std::vector<Field>& rows) {
  rows.insert(
      rows.end(),
      {
          {.key = "quantization.method",
           .target = one_of(quantization.method, {{"none", Method::kNone},
                                                  {"ste", Method::kSte},
                                                  {"stableqat", Method::kStableqat},
                                                  {"dsq", Method::kDsq},
                                                  {"seq", Method::kSeq}}),
           .help = "Quantizer and its gradient: `stableqat` (LSQ with the rotated damped Fourier surrogate), `ste` (LSQ, "
                   "straight-through), `dsq`, "
                   "`seq` (stretched elastic), `none` (plain training, goes with 16 bits).",
           .switches = {{"sine_soft_q.enable", "stableqat", "ste"}, {"sine_soft_q", "stableqat", "ste"}, {"dsq", "dsq"}}},
          {.key = "quantization.bits",
           .target = one_of(quantization.bits, {{"1", 1},
                                                {"1.58", TrainConfig::kTernaryBits},
                                                {"0", TrainConfig::kTernaryBits},
                                                {"2", 2},
                                                {"3", 3},
                                                {"4", 4},
                                                {"8", 8},
                                                {"16", TrainConfig::kUnquantizedBits}}),
           .help = "Bits per weight; `1.58` or `0` is ternary, `16` is unquantized.",
           .aliases = {"w_bits"}},
          {.key = "quantization.amplitude",
           .target = &quantization.amplitude,
           .help =
               "Amplitude A of the Fourier surrogate, 0 (equal to `ste`) up to 0.225; a list of several gives each term's own amplitude, "
               "with sign and 1/(2m+1) included.",
           .aliases = {"quantization.amplitudes", "sine_soft_q.amplitude"}},
          {.key = "quantization.order",
           .target = &quantization.order,
           .help = "Highest Fourier term M of the surrogate; 0 = one cosine.",
           .range = kNotNegative},
          {.key = "quantization.group_size",
           .target = one_of(quantization.group_size, {{"0", 0}, {"32", 32}, {"64", 64}, {"128", 128}}),
           .help = "Columns that share a scale; 0 = one scale per row."},
          {.key = "quantization.scale_init",
           .target = one_of(quantization.scale_init, {{"absmax", ScaleInit::kAbsmax}, {"mse", ScaleInit::kMse}, {"lsq", ScaleInit::kLsq}}),
           .help = "Start value of the scales: largest weight, least squared error by search, or LSQ's rule."},
          {.key = "quantization.stored_scales",
           .target = one_of(quantization.stored_scales,
                            {{"auto", StoredScales::kAuto}, {"use", StoredScales::kUse}, {"ignore", StoredScales::kIgnore}}),
           .help =
               "Scales that the start model has: `auto` = start from them if they were made for this quantizer and number of bits, else "
               "from `quantization.scale_init`; `use` = in any case; `ignore` = never.",
           .switches = {{"contain_weight_clip_val", "use", "ignore"}}},
          {.key = "quantization.export_grid",
           .target = one_of(quantization.export_grid, {{"fp16", ExportGrid::kFp16}, {"none", ExportGrid::kNone}}),
           .help =
               "Keep scales on the values that exported files can store, so that an export changes no weight; `none` = any fp32 value."},
          {.key = "quantization.layers",
           .target = &quantization.layers,
           .help = "Patterns (*, ? and [a-z]) of the linear layers to quantize; empty = all of the decoder blocks."},
          {.key = "quantization.exclude",
           .target = &quantization.exclude,
           .help = "Patterns (*, ? and [a-z]) of layers to leave unquantized."},
      });
}

void add_data(TrainConfig::Data& data, std::vector<Field>& rows) {
  rows.insert(
      rows.end(),
      {
          {.key = "data.root",
           .target = &data.root,
           .help = "Folder that relative paths in `data.train` and `data.mixture` start from; empty = the current folder.",
           .aliases = {"train_data_dir"}},
          {.key = "data.train",
           .target = &data.train,
           .help = "Training data: token files (PREFIX of PREFIX.bin and PREFIX.idx), a dataset saved by Hugging Face's `datasets`, or "
                   "text (JSON "
                   "lines, Parquet, plain), which is tokenized first; "
                   "this or `data.mixture` is required."},
          {.key = "data.mixture",
           .target = &data.mixture,
           .help =
               "Training data from several places: each item gives the share of the sequences that its weight has in the sum of weights. "
               "The section `data` may also be this list itself.",
           .range = kPositive},
          {.key = "data.valid",
           .target = &data.valid,
           .help = "Validation data in the same forms; empty = no evaluation while training.",
           .aliases = {"eval_data_local_path"}},
          {.key = "data.sequence_length",
           .target = &data.sequence_length,
           .help = "Tokens per training sequence.",
           .range = kAtLeastOne,
           .aliases = {"model_max_length"}},
          {.key = "data.json_key", .target = &data.json_key, .help = "Key that holds the text in JSON lines."},
          {.key = "data.skip_bad_lines",
           .target = &data.skip_bad_lines,
           .help = "Leave out and count unreadable lines instead of stopping at the first."},
          {.key = "data.max_train_tokens",
           .target = &data.max_train_tokens,
           .help = "Training tokens of the run, where `train.max_steps` does not say its length; 0 = `train.num_train_epochs` decides.",
           .range = kNotNegative,
           .aliases = {"max_train_tokens"}},
          {.key = "data.allow_repeats",
           .target = &data.allow_repeats,
           .help = "Let `data.max_train_tokens` be more than the data holds, which is then read several times; else that is an error."},
          {.key = "data.overlap_tokens",
           .target = &data.overlap_tokens,
           .help = "Training tokens that are searched for the text of `data.valid`: what is found is left out of the evaluation, with a "
                   "warning; if nothing remains, that is an error. Of longer data an even sample is searched; 0 = none.",
           .range = kNotNegative},
          {.key = "data.shuffle_seed", .target = &data.shuffle_seed, .help = "Seed of the order of the sequences.", .range = kNotNegative},
      });
}

void add_train(TrainConfig::Train& train, std::vector<Field>& rows) {
  rows.insert(
      rows.end(),
      {
          {.key = "train.output_dir",
           .target = &train.output_dir,
           .help = "Folder for checkpoints, metrics and the resolved configuration; required.",
           .aliases = {"output_dir"}},
          {.key = "train.micro_batch_size",
           .target = &train.micro_batch_size,
           .help = "Sequences per forward pass of one process.",
           .range = kAtLeastOne,
           .aliases = {"train.per_device_train_batch_size"}},
          {.key = "train.gradient_accumulation_steps",
           .target = &train.gradient_accumulation_steps,
           .help = "Micro-batches per optimizer step, of all processes together: a multiple of their number.",
           .range = kAtLeastOne},
          {.key = "train.max_steps",
           .target = &train.max_steps,
           .help =
               "Optimizer steps of the run, repeating the data as needed; 0 = `data.max_train_tokens` or `train.num_train_epochs` decides.",
           .range = kNotNegative},
          {.key = "train.num_train_epochs",
           .target = &train.num_train_epochs,
           .help = "Passes over the training data, where neither steps nor tokens are given; may be a fraction.",
           .range = kPositive},
          {.key = "train.learning_rate", .target = &train.learning_rate, .help = "Peak learning rate of AdamW.", .range = kPositive},
          {.key = "train.scale_learning_rate_ratio",
           .target = &train.scale_learning_rate_ratio,
           .help = "Learning rate of the scales, as a multiple of `train.learning_rate`; 0 = scales keep their start values.",
           .range = kNotNegative},
          {.key = "train.lr_scheduler",
           .target = one_of(train.lr_scheduler,
                            {{"cosine", Scheduler::kCosine}, {"linear", Scheduler::kLinear}, {"constant", Scheduler::kConstant}}),
           .help = "Course of the learning rate after warm-up: to 0 along a cosine or a line, or constant.",
           .aliases = {"train.lr_scheduler_type"}},
          {.key = "train.warmup_steps",
           .target = &train.warmup_steps,
           .help = "Optimizer steps over which the learning rate rises from 0; 0 = none, or `train.warmup_ratio`.",
           .range = kNotNegative},
          {.key = "train.warmup_ratio",
           .target = &train.warmup_ratio,
           .help = "The same as a share of all steps; 0 = none, or `train.warmup_steps`.",
           .range = kShare},
          {.key = "train.weight_decay", .target = &train.weight_decay, .help = "AdamW's decoupled weight decay.", .range = kNotNegative},
          {.key = "train.adam_beta1",
           .target = &train.adam_beta1,
           .help = "Decay of the first moment.",
           .range = {.min = 0.0, .max = 1.0, .below_max = true}},
          {.key = "train.adam_beta2",
           .target = &train.adam_beta2,
           .help = "Decay of the second moment.",
           .range = {.min = 0.0, .max = 1.0, .below_max = true}},
          {.key = "train.adam_epsilon",
           .target = &train.adam_epsilon,
           .help = "Added to the root of the second moment.",
           .range = kPositive},
          {.key = "train.moments",
           .target = one_of(train.moments, {{"float", Moments::kFloat}, {"bfloat16", Moments::kBfloat16}}),
           .help =
               "Type that AdamW's moments are kept in: `float` = that of the weights; `bfloat16` = half the memory or less, rounded up or "
               "down at random so that their means stay."},
          {.key = "train.max_grad_norm",
           .target = &train.max_grad_norm,
           .help = "Gradients are scaled down to this global norm; 0 = no clipping.",
           .range = kNotNegative},
          {.key = "train.seed",
           .target = &train.seed,
           .help = "Seed of everything random except the order of the data.",
           .range = kNotNegative},
          {.key = "train.device",
           .target = one_of(train.device, {{"cpu", Device::kCpu}, {"cuda", Device::kCuda}}),
           .help =
               "Where the model is trained: `cuda` = on one NVIDIA GPU, with float32 masters (docs/cuda.md; it has not run on a GPU yet)."},
          {.key = "train.precision",
           .target = one_of(train.precision, {{"auto", Precision::kAuto},
                                              {"float32", Precision::kFloat32},
                                              {"bfloat16", Precision::kBfloat16},
                                              {"float16", Precision::kFloat16},
                                              {"float64", Precision::kFloat64}}),
           .help =
               "Type of the forward and backward arithmetic; `auto` = bfloat16 where the hardware is fast at it (AMX, GPUs), else float32.",
           .switches = {{"train.fp16", "float16"}, {"train.bf16", "bfloat16"}}},
          {.key = "train.compute",
           .target = one_of(train.compute, {{"auto", Compute::kAuto},
                                            {"float", Compute::kFloat},
                                            {"int8x2", Compute::kInt8x2},
                                            {"int8x1", Compute::kInt8x1},
                                            {"fp8", Compute::kFp8}}),
           .help =
               "Products with quantized weights: `float` = in train.precision; `int8x2` = of the weights' integer codes with "
               "activations and gradients of two int8 digits, per-row scales and float32 precision only, and gradients of weights and "
               "of the head rounded to 12 bits where the CPU has VNNI (bfloat16 on AMX); `int8x1` = the same with one digit; `fp8` = on a "
               "GPU, of the codes "
               "with activations and gradients in float8 e4m3, per-row scales, at most 4 bits and bfloat16 precision only, and gradients "
               "of weights in bfloat16 (it has not run on a GPU yet); `auto` = int8x2 for 4 bits with a scale a row where the CPU has "
               "VNNI and train.precision comes to float32, else float."},
          {.key = "train.recompute",
           .target =
               one_of(train.recompute, {{"none", Recompute::kNone}, {"selective", Recompute::kSelective}, {"block", Recompute::kBlock}}),
           .help = "Activations to compute again in the backward pass instead of keeping them: `selective` = inputs of products, from what "
                   "norms and gates keep: a third less memory for a few percent of time; `block` = all of a block but its input: costs one "
                   "forward pass.",
           .switches = {{"train.gradient_checkpointing", "block", "none"}}},
          {.key = "train.cuda_graph",
           .target = &train.cuda_graph,
           .help =
               "On a GPU: forward and backward of a micro-batch are recorded once, as a CUDA graph, and then started as a whole. The graph "
               "keeps its memory, so that evaluation during training needs its own besides. It has not run on a GPU yet."},
          {.key = "train.logging_steps",
           .target = &train.logging_steps,
           .help = "Optimizer steps between lines of metrics.",
           .range = kAtLeastOne},
          {.key = "train.report_to",
           .target = one_of(train.report_to, {{"none", ReportTo::kNone}, {"tensorboard", ReportTo::kTensorBoard}}),
           .help = "Where the metrics of `metrics.jsonl` go besides: `tensorboard` writes event files that TensorBoard opens."},
          {.key = "train.logging_dir",
           .target = &train.logging_dir,
           .help = "Folder for the event files of `train.report_to`; empty = `runs` in `train.output_dir`."},
          {.key = "train.code_histograms",
           .target = &train.code_histograms,
           .help = "Also write a histogram of the codes of each quantized layer into the event files, at each line of metrics."},
          {.key = "train.save_before_training",
           .target = &train.save_before_training,
           .help = "Write `before_training_checkpoint`, the start model with its start scales, before the first step: the baseline "
                   "without training, and a proof that the disk can be written."},
          {.key = "train.save_steps",
           .target = &train.save_steps,
           .help = "Optimizer steps between checkpoints; 0 = only at the end.",
           .range = kNotNegative},
          {.key = "train.save_total_limit",
           .target = &train.save_total_limit,
           .help = "Checkpoints to keep, the oldest goes first; 0 = all.",
           .range = kNotNegative},
          {.key = "train.save_keep_every",
           .target = &train.save_keep_every,
           .help = "Checkpoints of steps that are multiples of this stay besides those of `train.save_total_limit`; 0 = none.",
           .range = kNotNegative},
          {.key = "train.save_in_background",
           .target = &train.save_in_background,
           .help =
               "Checkpoints are written while training goes on. What is not written when the next update changes it is copied to memory "
               "first: at most the size of the checkpoint, of each process its share."},
          {.key = "train.eval_steps",
           .target = &train.eval_steps,
           .help = "Optimizer steps between evaluations on `data.valid` and `train.eval_tasks`; 0 = only at the end.",
           .range = kNotNegative},
          {.key = "train.eval_tokens",
           .target = &train.eval_tokens,
           .help = "Tokens of `data.valid` per evaluation; 0 = all.",
           .range = kNotNegative},
          {.key = "train.eval_tasks",
           .target = &train.eval_tasks,
           .help = "Tasks to score at each evaluation, as `stableqat eval --tasks` names them; empty = none."},
          {.key = "train.eval_data_dir", .target = &train.eval_data_dir, .help = "Folder of the documents of `train.eval_tasks`."},
          {.key = "train.eval_limit",
           .target = &train.eval_limit,
           .help = "Documents of each of `train.eval_tasks` per evaluation, from the first on; 0 = all.",
           .range = kNotNegative},
          {.key = "train.resume",
           .target = &train.resume,
           .help = "`auto` = go on from the newest good checkpoint in `train.output_dir`, `never` = start anew, or a checkpoint folder, "
                   "which may be "
                   "named relative to `train.output_dir`.",
           .aliases = {"resume_ckpt"}},
          {.key = "train.threads", .target = &train.threads, .help = "CPU threads; 0 = all cores.", .range = kNotNegative},
      });
}

void add_distillation(TrainConfig::Distillation& distillation, std::vector<Field>& rows) {
  rows.insert(rows.end(),
              {
                  {.key = "distillation.weight",
                   .target = &distillation.weight,
                   .help = "Share of the teacher's loss (forward KL on its logits) in the whole loss; 0 = off, 1 = no data loss.",
                   .range = kShare},
                  {.key = "distillation.temperature",
                   .target = &distillation.temperature,
                   .help = "Temperature of both distributions in the teacher's loss.",
                   .range = kPositive},
                  {.key = "distillation.teacher",
                   .target = &distillation.teacher,
                   .help = "Model to learn from; empty = the start model in full precision."},
              });
}

void add_distributed(TrainConfig::Distributed& distributed, std::vector<Field>& rows) {
  rows.insert(rows.end(),
              {
                  {.key = "distributed.reduce",
                   .target = one_of(distributed.reduce, {{"fp32", Reduce::kFp32}, {"bf16", Reduce::kBf16}}),
                   .help = "What gradients are rounded to when processes send them to each other; their sums are float32 in any case."},
                  {.key = "distributed.bucket_mb",
                   .target = &distributed.bucket_mb,
                   .help = "Megabytes (2^20) of gradients or weights that processes exchange at a time.",
                   .range = kAtLeastOne},
                  {.key = "distributed.timeout",
                   .target = &distributed.timeout,
                   .help = "Seconds that processes wait for each other, at the start and in each exchange, until one counts as lost.",
                   .range = kPositive},
              });
}

}  // namespace

std::vector<Field> fields(TrainConfig& config) {
  std::vector<Field> rows;
  add_model(config.model, rows);
  add_quantization(config.quantization, rows);
  add_data(config.data, rows);
  add_train(config.train, rows);
  add_distillation(config.distillation, rows);
  add_distributed(config.distributed, rows);
  return rows;
}

std::vector<Field> fields(AuthorsData& data) {
  return {{.key = "slimpajama_data.data_path", .target = &data.slimpajama.path, .help = "An item of `data.mixture`."},
          {.key = "slimpajama_data.mix_ratio",
           .target = &data.slimpajama.weight,
           .help = "Its weight; 0 leaves it out.",
           .range = kNotNegative},
          {.key = "fineweb_edu_data.data_path", .target = &data.fineweb_edu.path, .help = "Another item of `data.mixture`."},
          {.key = "fineweb_edu_data.mix_ratio",
           .target = &data.fineweb_edu.weight,
           .help = "Its weight; 0 leaves it out.",
           .range = kNotNegative},
          {.key = "tokenized_data_name", .target = &data.tokenized_name, .help = "`data.train`, where the file names no mixture."},
          {.key = "truncate.enable",
           .target = &data.truncate,
           .help = "With `true`, `truncate.length` is `data.sequence_length`; no token is dropped."},
          {.key = "truncate.length", .target = &data.truncate_length, .help = "See `truncate.enable`.", .range = kAtLeastOne}};
}

std::span<const ForeignKey> train_foreign_keys() {
  constexpr std::string_view kEvaluations = "use train.eval_steps";
  static const std::vector<ForeignKey> keys = {
      {.key = "cache_dir"},
      {.key = "efficient"},
      {.key = "max_eval_samples", .remedy = "not supported; use train.eval_tokens", .accepted = {"-1"}},
      {.key = "max_train_samples", .remedy = "not supported; use data.max_train_tokens", .accepted = {"-1"}},
      {.key = "train.do_eval"},
      {.key = "train.do_train", .remedy = "use `stableqat eval` to evaluate without training", .accepted = {"true", "yes"}},
      {.key = "train.eval_strategy", .remedy = kEvaluations, .accepted = {"no", "false", "steps"}},
      {.key = "train.evaluation_strategy", .remedy = kEvaluations, .accepted = {"no", "false", "steps"}},
      {.key = "train.log_on_each_node"},
      {.key = "train.optim",
       .remedy = "AdamW is the only optimizer",
       .accepted = {"adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"}},
      {.key = "train.per_device_eval_batch_size"},
      {.key = "train.remove_unused_columns"},
      {.key = "train.save_strategy", .remedy = "use train.save_steps", .accepted = {"steps"}},
      {.key = "train.tf32"},
  };
  return keys;
}

}  // namespace stableqat
