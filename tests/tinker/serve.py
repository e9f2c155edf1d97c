"""SkyRL's Tinker server on its JAX backend, on a CPU, without PyTorch, PEFT and uv.

    python serve.py api FLAGS...       the server, which starts the next one itself
    python serve.py engine FLAGS...    what computes
    python serve.py worker FLAGS...    a further process of what computes

That backend wants of torch the names of two types, and of PEFT the file `adapter_config.json`.
"""
import argparse
import json
import pathlib
import runpy
import sys
import types

import transformers  # looks for torch, so it comes before the stand-in
import transformers.utils


class LoraConfig:
    def __init__(self, **settings):
        self.settings = {"peft_type": "LORA", "bias": "none", "target_modules": None} | settings

    def save_pretrained(self, folder):
        pathlib.Path(folder, "adapter_config.json").write_text(json.dumps(self.settings))


def stand_in(name, **contents):
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


def serve(flags):
    import uvicorn
    from skyrl.tinker import api
    from skyrl.tinker.config import EngineConfig, add_model, config_to_argv

    parser = argparse.ArgumentParser()
    add_model(parser, EngineConfig)
    parser.add_argument("--port", type=int, required=True)
    given = vars(parser.parse_args(flags))
    port = given.pop("port")

    def engine(_parent, config):
        return [sys.executable, __file__, "engine", *config_to_argv(config)]

    api._build_uv_run_cmd_engine = engine
    known = {name: value for name, value in given.items() if name in EngineConfig.model_fields}
    api.app.state.engine_config = EngineConfig.model_validate(known)
    uvicorn.run(api.app, host="127.0.0.1", port=port, log_level="warning")


stand_in("peft", LoraConfig=LoraConfig)
stand_in("torch", Tensor=object, dtype=object)
command, *flags = sys.argv[1:]
if command == "api":
    serve(flags)
else:
    sys.argv = [command, *flags]
    module = {"engine": "skyrl.tinker.engine", "worker": "skyrl.backends.jax"}[command]
    runpy.run_module(module, run_name="__main__")
