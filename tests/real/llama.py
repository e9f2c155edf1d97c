"""Serves a GGUF by llama.cpp behind the OpenAI API on 127.0.0.1, until it is killed.

Usage: llama.py MODEL.gguf NAME [SLOTS] [CONTEXT_PER_SLOT] [CHAT_TEMPLATE_FILE]
Needs the package xllamacpp. Prints its port."""
import socket
import sys
import time

import xllamacpp

path, name = sys.argv[1:3]
slots = int(sys.argv[3]) if len(sys.argv) > 3 else 2
context = int(sys.argv[4]) if len(sys.argv) > 4 else 2048
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.hostnames, parameters.port = path, ["127.0.0.1"], port
parameters.n_ctx, parameters.n_parallel = context * slots, slots
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
parameters.use_jinja = True
parameters.model_alias = {name}
if len(sys.argv) > 5:
    parameters.chat_template = open(sys.argv[5]).read()
server = xllamacpp.Server(parameters)
print(port, flush=True)
while True:
    time.sleep(3600)
