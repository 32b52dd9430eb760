"""Writes a model that any llama.cpp can run and that knows nothing: random weights, half a megabyte.

What it says is gibberish, now and then with half a character in it, which is what a gateway must pass on
unharmed. Usage: tiny_model.py FILE
"""

import sys

import gguf
import numpy

WORDS = "the a of and to in hello world model gateway token test reply yes no ok stream data json value key".split()
EMBEDDING, LAYERS, FEED_FORWARD, HEADS, KEY_HEADS, CONTEXT = 64, 2, 128, 4, 2, 2048
SPACE = "\u2581"


def vocabulary():
    """Tokens with type and score: the control tokens, every byte, every character, some words."""
    control, byte, normal = gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    yield b"<unk>", gguf.TokenType.UNKNOWN, 0.0
    yield b"<s>", control, 0.0
    yield b"</s>", control, 0.0
    for value in range(256):
        yield b"<0x%02X>" % value, byte, -1e4
    pieces = [SPACE] + [chr(code) for code in range(33, 127)] + [SPACE + word for word in WORDS]
    for rank, piece in enumerate(pieces):
        yield piece.encode(), normal, -float(rank + 1)


def main(path):
    tokens, types, scores = (list(column) for column in zip(*vocabulary()))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for m in messages %}<{{m.role}}> {{m.content}}\n{% endfor %}<assistant> ")

    random = numpy.random.default_rng(0)

    def matrix(*shape):
        return (random.standard_normal(shape) * 0.3).astype(numpy.float32)

    ones = numpy.ones(EMBEDDING, numpy.float32)
    keys = EMBEDDING // HEADS * KEY_HEADS
    writer.add_tensor("token_embd.weight", matrix(len(tokens), EMBEDDING))
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", matrix(len(tokens), EMBEDDING))
    for layer in range(LAYERS):
        for name, tensor in (
            ("attn_norm", ones),
            ("attn_q", matrix(EMBEDDING, EMBEDDING)),
            ("attn_k", matrix(keys, EMBEDDING)),
            ("attn_v", matrix(keys, EMBEDDING)),
            ("attn_output", matrix(EMBEDDING, EMBEDDING)),
            ("ffn_norm", ones),
            ("ffn_gate", matrix(FEED_FORWARD, EMBEDDING)),
            ("ffn_up", matrix(FEED_FORWARD, EMBEDDING)),
            ("ffn_down", matrix(EMBEDDING, FEED_FORWARD)),
        ):
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(sys.argv[1])
