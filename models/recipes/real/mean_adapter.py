#!/usr/bin/env python3
"""Writes the mean of two adapters that were trained from the same one: mean_adapter.py ONE OTHER OUTPUT

Each is a folder as `server train` writes it; OUTPUT gets the weights, and all else of ONE. Needs
`pip install safetensors numpy`.
"""

import shutil
import sys
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file

WEIGHTS = "adapter_model.safetensors"


def main():
    one, other, output = map(Path, sys.argv[1:4])
    first, second = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert first.keys() == second.keys(), "the adapters have different weights"
    shutil.copytree(one, output)
    mean = {name: (first[name] + second[name]) / numpy.float32(2) for name in first}
    save_file(mean, output / WEIGHTS, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
