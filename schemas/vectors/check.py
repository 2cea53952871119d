#!/usr/bin/env python3
"""Recomputes ids.json and digest.json with the standard library alone. Prints what differs; exits 1 then."""
import hashlib, json, pathlib, uuid
from datetime import datetime, timedelta
from decimal import Decimal

def number(x):  # as ECMAScript writes it, which is what RFC 8785 asks for
    if x == int(x) and abs(x) < 1e21: return str(int(x))
    if 1e-6 <= abs(x) < 1: return format(Decimal(repr(x)), "f")
    return repr(x).replace("e-0", "e-")

def canonical(v):  # RFC 8785: keys in the order of their UTF-16 code units
    if isinstance(v, dict):
        keys = sorted(v, key=lambda k: k.encode("utf-16-be"))
        return "{" + ",".join(canonical(k) + ":" + canonical(v[k]) for k in keys) + "}"
    if isinstance(v, list): return "[" + ",".join(map(canonical, v)) + "]"
    if isinstance(v, (int, float)) and not isinstance(v, bool): return number(v)
    return json.dumps(v, ensure_ascii=False)

def micros(time):
    since = datetime.fromisoformat(time.replace("Z", "+00:00")) - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return since // timedelta(microseconds=1)

def sha256(data): return hashlib.sha256(data).digest()

def ids(vectors):
    for v in vectors["ids"]:
        if "content" in v: yield v, "content_hash", sha256(v["content"].encode()).hex()
        yield v, "name", "/".join([v["of"]] + [str(v[part]) for part in v["parts"]])
        yield v, "id", str(uuid.uuid5(uuid.UUID(vectors["namespace"]), v["name"]))

def digest(vectors):
    total = 0
    yield vectors, "digest_of_none", f"{total:064x}"
    for v in vectors["messages"]:
        body = canonical({"content": v["content"], "metadata": v["metadata"], "type": v["type"]})
        version = micros(v["updated_at"]).to_bytes(8, "big") + sha256(body.encode())
        item = sha256(uuid.UUID(v["id"]).bytes + version)
        total = (total + int.from_bytes(item, "big")) % 2**256
        yield v, "content_hash", sha256(v["content"].encode()).hex()
        yield v, "body", body
        yield v, "body_hash", version[8:].hex()
        yield v, "version", version.hex()
        yield v, "item", item.hex()
        yield v, "digest", f"{total:064x}"

if __name__ == "__main__":
    here, wrong, checked = pathlib.Path(__file__).parent, 0, 0
    for file, recompute in (("ids.json", ids), ("digest.json", digest)):
        for vector, key, value in recompute(json.loads((here / file).read_text("utf-8"))):
            checked += 1
            if vector[key] != value:
                wrong += 1
                print(f"{file}: {vector.get('title', 'zero messages')}: {key} is {vector[key]}, computed {value}")
    print(f"{checked} values checked, {wrong} wrong")
    raise SystemExit(wrong > 0)
