"""Serves a GGUF file with llama.cpp by the OpenAI API on 127.0.0.1, until it is killed.

Usage: llama.py [--exact] MODEL.gguf NAME [SLOTS] [CONTEXT_PER_SLOT] [CHAT_TEMPLATE_FILE]
--exact computes in f32 throughout. Needs the package xllamacpp. Prints its port."""
import socket
import sys
import time

import xllamacpp

arguments = sys.argv[1:]
is_exact = "--exact" in arguments
if is_exact:
    arguments.remove("--exact")
path, name = arguments[:2]
slots = int(arguments[2]) if len(arguments) > 2 else 2
context = int(arguments[3]) if len(arguments) > 3 else 2048
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.hostnames, parameters.port = path, ["127.0.0.1"], port
parameters.n_ctx, parameters.n_parallel = context * slots, slots
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
parameters.use_jinja = True
parameters.model_alias = {name}
if is_exact:
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
if len(arguments) > 4:
    parameters.chat_template = open(arguments[4]).read()
server = xllamacpp.Server(parameters)
print(port, flush=True)
while True:
    time.sleep(3600)
