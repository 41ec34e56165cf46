"""A stock llama.cpp (PyPI package xllamacpp) as a server in this process, for compare_llama.py and benchmarks/peers/run_decode.py."""

import json
import urllib.request


class LlamaServer:
    """Serves the GGUF file at `path`. `exact`: keys and values are kept in F32, and flash attention, which rounds to half precision, is off.

    Raises ImportError where the package is not installed.
    """

    def __init__(self, path, threads, exact=False, warmup=False):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx = 2048
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.warmup = warmup
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)

    def post(self, path, body):
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)
