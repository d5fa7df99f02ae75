"""How the fuzzers change what they have: safetensors files and ONNX models by their structure, so that a change gets far."""

import copy
import json
import struct

INTERESTING = (None, True, False, -3, -1, 0, 1, 2, 7, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, 10**400, -0.5, 0.5, 1e-320,
               1e308, float("nan"), float("inf"), "", "x", "softmax", "\ud800", [], {}, [[]], [0.5])  # fmt: skip
WORDS = [struct.pack("<q", number) for number in (-3, -1, 0, 1, 77, 2**31, 2**62)]
WORDS += [struct.pack("<d", number) for number in (-1.0, 0.5, 1e300, float("nan"), float("inf"))]


def changed_json(value, random):
    """Return a value with one part of it replaced, removed, doubled or put elsewhere."""
    holder = [value]
    places = list(_places(holder))
    inside, key = random.choice(places)
    what = random.random()
    if what < 0.5:
        inside[key] = copy.deepcopy(random.choice(INTERESTING))
    elif what < 0.6 and type(inside[key]) in (int, float):
        inside[key] += random.choice((-1, 1, -(2**62), 2**62))
    elif what < 0.75 and inside is not holder:
        del inside[key]
    elif what < 0.85 and isinstance(inside, list):
        inside.insert(key, copy.deepcopy(inside[key]))
    elif what < 0.87:
        deep = inside[key]
        for _ in range(random.choice((3, 200, 5000))):
            deep = [deep]
        inside[key] = deep
    else:
        other, where = random.choice(places)
        inside[key] = copy.deepcopy(other[where])
    return holder[0]


def changed_file(data, random, kind, mutate, most):
    """Return a changed safetensors file: its description of the name ``kind``, its tensors, or its numbers."""
    try:
        length = struct.unpack("<Q", data[:8])[0]
        header, content = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
        description = json.loads(header["__metadata__"][kind])
    except (ValueError, KeyError, TypeError, struct.error, RecursionError):
        return mutate(data, most)
    where = random.random()
    try:
        if where < 0.6:
            for _ in range(random.choice((1, 1, 1, 2, 3))):
                description = changed_json(description, random)
            header["__metadata__"][kind] = json.dumps(description)
        elif where < 0.75:
            header = changed_json(header, random)
        elif where < 0.95 and content:
            for _ in range(random.choice((1, 1, 2, 4))):
                place = random.randrange(len(content)) // 4 * 4
                content[place : place + 8] = random.choice(WORDS)[: len(content) - place]
        else:
            return mutate(data, most)
        packed = json.dumps(header).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return mutate(data, most)
    return struct.pack("<Q", len(packed)) + packed + bytes(content)


def changed_model(data, random, model, mutate, most):
    """Return a changed ONNX model; ``model`` is an empty one, to parse into."""
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's own, which has no stable name
        return mutate(data, most)
    if random.random() < 0.1:
        return mutate(data, most)
    try:
        for _ in range(random.choice((1, 1, 2, 3))):
            if model.graph.node and random.random() < 0.5:
                _change_node(model.graph, random)
                continue
            messages = list(_messages(model))
            message = random.choice(messages)
            _change(message, random, [one for one in messages if type(one) is type(message)])
    except UnicodeDecodeError:  # a text that an earlier change broke
        return mutate(data, most)
    return model.SerializeToString()


def _places(holder):
    """Yield (container, key) of every value under a container."""
    stack = [holder]
    while stack:
        inside = stack.pop()
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            yield inside, key
            if isinstance(inside[key], dict | list):
                stack.append(inside[key])


def _messages(message):
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if hasattr(value, "append") or hasattr(value, "add") else [value]:
                yield from _messages(one)


def _change(message, random, alike):
    """Change one field of a message: to another value, to that of a message alike, or away."""
    there = [field for field, _ in message.ListFields()]
    field = random.choice(there if there and random.random() < 0.8 else message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    several = hasattr(value, "append")
    what = random.random()
    if what < 0.2:
        message.ClearField(field.name)
    elif what < 0.6 or field.message_type is not None:
        other = random.choice(alike)
        copied = type(message)()
        copied.CopyFrom(other)
        message.ClearField(field.name)
        if several:
            getattr(message, field.name).extend(getattr(copied, field.name))
        elif field.message_type is not None:
            value.CopyFrom(getattr(copied, field.name))
        else:
            setattr(message, field.name, getattr(copied, field.name))
    else:
        scalar = _scalar(field, random)
        if several and len(value) and random.random() < 0.7:
            value[random.randrange(len(value))] = scalar
        elif several:
            value.append(scalar)
        else:
            setattr(message, field.name, scalar)


OPERATORS = [
    "Relu",
    "Sigmoid",
    "Gemm",
    "MatMul",
    "Add",
    "Mul",
    "Identity",
    "Dropout",
    "Flatten",
    "Cast",
    "Softmax",
    "Elu",
]
OPERATORS += ["LeakyRelu", "Gelu", "Tanh", "Exp", "Softplus", "Transpose", "Neg"]
NAMES = [*OPERATORS, "x", "y", "a", "b", "W0", "b0", "alpha", "axis", "to", "ai.onnx", "com.example", "../x", ""]
ATTRIBUTES = [("alpha", 1, (0.01, 0.3, 1.0)), ("beta", 1, (0.5, 1.0)), ("axis", 2, (-1, 0, 1, 2)), ("transA", 2, (0, 1)),
              ("transB", 2, (0, 1)), ("to", 2, (1, 7, 9, 10, 11)), ("approximate", 3, (b"none", b"tanh"))]  # fmt: skip
"""Name, type (of AttributeProto: a float, a whole number, a text) and values."""


def _change_node(graph, random):
    """Make a node do something else: another operator, other inputs, an attribute; or put one after it."""
    node, what = random.choice(graph.node), random.random()
    if what < 0.25:
        node.op_type = random.choice(OPERATORS)
    elif what < 0.4 and node.input:
        others = [name for other in graph.node for name in (*other.input, *other.output)]
        node.input[random.randrange(len(node.input))] = random.choice(others)
    elif what < 0.7:
        name, kind, values = random.choice(ATTRIBUTES)
        attribute = next((one for one in node.attribute if one.name == name), None) or node.attribute.add()
        attribute.name, attribute.type = name, kind
        setattr(attribute, {1: "f", 2: "i", 3: "s"}[kind], random.choice(values))
    elif node.output:
        place, name = list(graph.node).index(node) + 1, f"new{random.randrange(1000)}"
        made = graph.node.add()
        made.op_type, made.name = random.choice(OPERATORS), name
        made.input.append(name)
        made.output.append(node.output[0])
        node.output[0] = name
        ordered = list(graph.node)
        ordered.insert(place, ordered.pop())
        copies = [type(node)() for _ in ordered]
        for one, other in zip(copies, ordered, strict=True):
            one.CopyFrom(other)
        del graph.node[:]
        graph.node.extend(copies)


def _scalar(field, random):
    if field.cpp_type == field.CPPTYPE_STRING:
        name = random.choice(NAMES)
        return name.encode() if field.type == field.TYPE_BYTES else name
    if field.cpp_type == field.CPPTYPE_ENUM:
        return random.choice([one.number for one in field.enum_type.values])
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return random.choice((0.0, 0.01, 0.5, 1.0, -1.0, 1e30, float("nan")))
    least = 0 if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else -2
    return random.choice([one for one in (-2, -1, 0, 1, 2, 3, 7, 11, 20, 2**31 - 1) if one >= least])
