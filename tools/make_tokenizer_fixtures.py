#!/usr/bin/env python3
"""Makes the small tokenizers in tests/golden/data/tokenizer/ and the ids and words that Hugging Face `tokenizers` gives for them.

python3 -m pip install tokenizers==0.23.3 gguf==0.19.0
python3 tools/make_tokenizer_fixtures.py
"""

import json
import lzma
import pathlib
import random

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/data"
FOLDER = DATA / "tokenizer"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")


def split(expression):
    return [
        pre_tokenizers.Split(Regex(expression), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


RULES = {
    "gpt2": byte_level(),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
    "llama3": pre_tokenizers.Sequence(split(LLAMA3)),
    "qwen2": pre_tokenizers.Sequence(split(QWEN2)),
    "split_gpt2": pre_tokenizers.Sequence(split(GPT2)),
    "qwen3": pre_tokenizers.Sequence(split(QWEN2)),  # with normal form C
}

ADDED = {
    "gpt2": [
        AddedToken("<|endoftext|>", special=True, normalized=False),
        AddedToken("<mask>", special=True, normalized=False, lstrip=True),
        AddedToken("<end>", special=True, normalized=False, rstrip=True),
        AddedToken("<both>", special=False, normalized=False, lstrip=True, rstrip=True),
    ],
    "smollm": [
        AddedToken("<|endoftext|>", special=True, normalized=False),
        AddedToken("<|im_start|>", special=True, normalized=False),
        AddedToken("<|im_end|>", special=True, normalized=False),
        AddedToken("<tool>", special=False, normalized=False),
        AddedToken("<tool>box", special=False, normalized=False),
        AddedToken("box", special=False, normalized=True),
        AddedToken("x<to", special=False, normalized=True),
        AddedToken("\u00fcber", special=False, normalized=False),
    ],
    "llama3": [
        AddedToken("<|begin_of_text|>", special=True, normalized=False),
        AddedToken("<|end_of_text|>", special=True, normalized=False),
    ],
    "qwen2": [AddedToken("<|endoftext|>", special=True, normalized=False), AddedToken("    ", special=False, normalized=False)],
    "split_gpt2": [],
    "qwen3": [
        AddedToken("<|endoftext|>", special=True, normalized=False),
        AddedToken("<think>", special=False, normalized=False),
        AddedToken("\u00e9t\u00e9", special=False, normalized=True),
    ],
}

# What the scanners have to tell apart.
PIECES = (
    list("aZsStTmMdDlLrRvVeE019'''  \n\r\t.,!_-<>|#$")
    + ["'s", "'LL", "'re", "'Ve", "'\u017f", "  ", "   ", "\r\n", "\n\n", " \n", "12345", "hello", " world", "The", " the"]
    + ["\u00e9", "\u00df", "\u0130", "\u01c5", "\u02b0", "\u05d0", "\u0e01", "\u4e2d", "\U00020000", "\u212a"]  # letters
    + ["\u0301", "\u093f", "\u200d", "\ufe0f"]  # marks
    + ["e\u0301", "o\u0323\u0302", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u212b", "\u0958", "\ufb4b", "\u0344"]  # not in normal form C
    + ["\u0661", "\u00bd", "\u2167", "\u00b2", "\u3007", "\U0001d7d8", "\U00011de0", "\U00016ff4"]  # numbers, the last two of Unicode 17
    + [
        "\u00a0",
        "\u1680",
        "\u2003",
        "\u2028",
        "\u202f",
        "\u3000",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\u200b",
        "\ufeff",
        "\u180e",
    ]  # blanks or not
    + ["\U0001f600", "\u2764\ufe0f", "\u20ac", "\u3002", "\x00", "\x7f", "\U0010ffff", "\ue000"]
    + ["<|endoftext|>", "<|im_end|>", "<tool>", "<tool>box", "box", "x<to", "<mask>", "<end>", "<both>", "\u00fcber", "    "]
)

TEXTS = [
    "",
    " ",
    "  ",
    "Hello, world! It's 2024; they'll say we've paid $1,234.56.",
    "I'M HERE, YOU'RE THERE, HE'D GO'S",
    "x = [1, 22, 333, 4444]\n\n    return  x\t\n",
    "a  1   b    \n  c\r\n\r\n d \u00a0 e",
    "''' 's'' 't 'x \u2019s",
    "x<tool>box x<tobox <tool>bo <|im_start|>user\n12 apples<|im_end|><|endoftext|",
    "  <mask>  a <end>  b  <both>  <both> <end> <mask>",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u4f60\u597d\uff0c\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "e\u0301\u0301 \u0301a 1\u0301 \u00b2\u2074\u2077",
]


def corpus():
    return lzma.open(DATA / "unicode_mix.txt.xz", "rt", encoding="utf-8", newline="").read()[:200000]


def texts(seed):
    chosen = random.Random(seed)
    without_blanks = "".join(c for c in corpus()[:3000] if c.isalpha())
    long_words = [
        without_blanks,
        "a" * 150,
        "".join(chosen.choices("etaoinshr", k=300)),
        "\U0001f600" * 40,
        " " * 200 + "x",
        "".join(chosen.choices("-=#", k=200)),
    ]
    return TEXTS + long_words + ["".join(chosen.choices(PIECES, k=chosen.randint(1, 30))) for _ in range(40)]


def word_lengths(pre_tokenizer, text):
    """In bytes of UTF-8."""
    spans = [span for _, span in pre_tokenizer.pre_tokenize_str(text)]
    return [len(text[begin:end].encode()) for begin, end in spans]


def train(name):
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    tokenizer.pre_tokenizer = RULES[name]
    if name == "qwen3":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=520, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([corpus()], trainer)
    for token in ADDED[name]:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    if name == "llama3":
        begin, end = (tokenizer.token_to_id(token.content) for token in ADDED[name])
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single="<|begin_of_text|> $A <|end_of_text|>",
                    special_tokens=[("<|begin_of_text|>", begin), ("<|end_of_text|>", end)],
                ),
            ]
        )
    return tokenizer


def sentencepiece(marks):
    """Of Llama 2's kind: characters and bytes, U+2581 for blanks. `marks` says how they come in: by a normalizer (Llama 2), by Metaspace."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    # Without a mark inside tokens, but for runs of marks, as SentencePiece has them.
    trainer = trainers.BpeTrainer(vocab_size=900, limit_alphabet=150, special_tokens=names, show_progress=False)
    trained.train_from_iterator([corpus()], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = model["vocab"]
    for length in (2, 4):
        vocabulary.setdefault("\u2581" * length, len(vocabulary))
    # As transformers' converter makes them: every way to cut a piece in two, in the order of scores, here of ids.
    pieces = [piece for piece, id in sorted(vocabulary.items(), key=lambda item: item[1]) if piece not in names]
    cuts = {piece: [(piece[:i], piece[i:]) for i in range(1, len(piece))] for piece in pieces}
    merges = []
    for piece in pieces:
        known = [cut for cut in cuts[piece] if cut[0] in cuts and cut[1] in cuts]
        merges += sorted(known, key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if marks == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=marks, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names[:3]])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


SENTENCEPIECE_PIECES = ["</s>", "<s>", "<unk>", "<tool>", "\u2581", "\u2581\u2581", " ", "  ", "    ", "<0x41>", "\n"]


def sentencepiece_texts(seed):
    chosen = random.Random(seed)
    pieces = PIECES + 4 * SENTENCEPIECE_PIECES
    plain = [corpus()[at : at + 400] for at in range(0, 4000, 1000)]
    return TEXTS + plain + [" " * 70 + "x" * 70] + ["".join(chosen.choices(pieces, k=chosen.randint(1, 20))) for _ in range(40)]


def with_unknown(fuse):
    """A vocabulary without most bytes, where a merge of rank 0 turns the pair of rank 1 into one of rank 2."""
    tokens = ["<unk>", "a", "b", "c", "bc", "ab", "abc", "bb"]
    merges = [("b", "c"), ("a", "b"), ("a", "bc"), ("b", "b")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, unk_token="<unk>", fuse_unk=fuse))
    tokenizer.pre_tokenizer = byte_level()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def cases(tokenizer, chosen_texts):
    result = []
    for text in chosen_texts:
        case = {"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids, "with_special": tokenizer.encode(text).ids}
        tokenizer.encode_special_tokens = True
        case["special_as_text"] = tokenizer.encode(text, add_special_tokens=False).ids
        case["decoded"] = tokenizer.decode(case["special_as_text"], skip_special_tokens=False)
        tokenizer.encode_special_tokens = False
        if tokenizer.model.unk_token is None and tokenizer.normalizer is None:
            case["words"] = word_lengths(tokenizer.pre_tokenizer, text)
        result.append(case)
    return result


def write_gguf(tokenizer, path, pre, settings):
    content = json.loads(tokenizer.to_str())
    tokens = {id: token for token, id in content["model"]["vocab"].items()}
    types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for token in content["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([tokens[id] for id in sorted(tokens)])
    writer.add_token_types([types[id] for id in sorted(tokens)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]])
    settings(writer, tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_sentencepiece_gguf(tokenizer, path):
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    types = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL}
    types |= {"<tool>": gguf.TokenType.USER_DEFINED} | {f"<0x{byte:02X}>": gguf.TokenType.BYTE for byte in range(256)}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _ in vocabulary])
    writer.add_token_scores([-float(id) for _, id in vocabulary])
    writer.add_token_types([types.get(piece, gguf.TokenType.NORMAL) for piece, _ in vocabulary])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def smollm_settings(writer, tokenizer):
    writer.add_bos_token_id(tokenizer.token_to_id("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_unk_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_pad_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def llama3_settings(writer, tokenizer):
    writer.add_bos_token_id(tokenizer.token_to_id("<|begin_of_text|>"))
    writer.add_eos_token_id(tokenizer.token_to_id("<|end_of_text|>"))
    writer.add_add_eos_token(True)


def main():
    FOLDER.mkdir(exist_ok=True)
    for seed, name in enumerate(RULES):
        tokenizer = train(name)
        (FOLDER / f"{name}.json").write_text(tokenizer.to_str(pretty=False))
        (FOLDER / f"{name}.cases.json").write_text(json.dumps(cases(tokenizer, texts(seed)), separators=(",", ":")))
        if name == "smollm":
            write_gguf(tokenizer, FOLDER / "smollm.gguf", "smollm", smollm_settings)
        if name == "llama3":
            write_gguf(tokenizer, FOLDER / "llama3.gguf", "llama-bpe", llama3_settings)
    for marks in ("normalizer", "first", "always", "never"):
        tokenizer = sentencepiece(marks)
        (FOLDER / f"sentencepiece_{marks}.json").write_text(tokenizer.to_str(pretty=False))
        if marks == "normalizer":
            write_sentencepiece_gguf(tokenizer, FOLDER / "sentencepiece.gguf")
        (FOLDER / f"sentencepiece_{marks}.cases.json").write_text(
            json.dumps(cases(tokenizer, sentencepiece_texts(7)), separators=(",", ":"))
        )
    for fuse in (False, True):
        name = "fused_unknown" if fuse else "unknown"
        tokenizer = with_unknown(fuse)
        (FOLDER / f"{name}.json").write_text(tokenizer.to_str(pretty=False))
        chosen = ["abc", "abxxc", "axbc", "xxabcc xx bbb", "\u00e9ab\u00e9\u00e9bc", "", "zz zz"]
        (FOLDER / f"{name}.cases.json").write_text(json.dumps(cases(tokenizer, chosen), separators=(",", ":")))


if __name__ == "__main__":
    main()
