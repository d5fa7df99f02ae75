"""Plain data and files with one part replaced, for tests of what must be refused."""

import json

from safetensors import safe_open
from safetensors.numpy import load_file

DELETED = object()


def changed(value, path, new):
    """Return plain data with the value at a path, such as "layers.0.units", replaced or removed."""
    whole = json.loads(json.dumps(value))
    inside, keys = whole, [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in keys[:-1]:
        inside = inside[key]
    if new is DELETED:
        del inside[keys[-1]]
    else:
        inside[keys[-1]] = new
    return whole


def parts(path, kind="schuss"):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()[kind]), load_file(path)
