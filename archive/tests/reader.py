#!/usr/bin/env python3
"""Verifies an archive that lies in a folder: `reader.py FOLDER`. Prints what is wrong, a line each; exits 1 then.

Written from FORMAT.md alone, with the standard library alone. Of Parquet files it checks hash and size.
"""
import hashlib, json, os, re, sys, uuid, zlib
from datetime import datetime, timezone
from urllib.parse import quote

NAMESPACE = uuid.UUID("5c3f6f0a-9a3e-5d5e-8f0b-2a6e4c1d7b90")
FOLDERS = {"user": "users", "team": "teams", "project": "projects"}
HEADER = ["format", "kind", "log_id", "partition", "partitions", "period", "period_seconds", "first_offset", "next_offset",
          "clock", "rules", "previous", "gaps", "events", "messages"]
SCOPE = ["scope", "backup", "head", "floor", "clock", "count", "bytes", "digest", "members", "restore"]
BACKUP = ["id", "type", "path", "sha256", "content_sha256", "size_bytes", "lines", "record_count", "cursor_first", "cursor_last"]
LINE = ["id", "type", "content", "content_hash", "metadata", "created_at", "updated_at", "contributed_by", "device_id", "cursor",
        "deleted"]
TOMBSTONE = LINE + ["deleted_at", "deleted_version"]


class Wrong(Exception):
    """What is wrong with an object."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def expect(found, expected, what):
    if found != expected:
        raise Wrong(f"{what} is {found}, not {expected}")


def starts_with_keys(value, keys, what):
    expect(list(value)[:len(keys)], keys, f"the keys of {what}")


def micros(time):
    whole, fraction = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z", time).groups()
    since = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + int((fraction or "0").ljust(6, "0"))


# A schema.

PRIMITIVE = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}


def canonical(schema, namespace=""):
    """Avro's Parsing Canonical Form."""
    full = lambda name, space: name if "." in name or not space else f"{space}.{name}"
    if isinstance(schema, str):
        return schema if schema in PRIMITIVE else full(schema, namespace)
    if isinstance(schema, list):
        return [canonical(branch, namespace) for branch in schema]
    if schema["type"] in PRIMITIVE:
        return schema["type"]
    form = {}
    if "name" in schema:
        form["name"] = full(schema["name"], schema.get("namespace", namespace))
        namespace = form["name"].rpartition(".")[0]
    form["type"] = schema["type"]
    if "fields" in schema:
        form["fields"] = [{"name": field["name"], "type": canonical(field["type"], namespace)} for field in schema["fields"]]
    for key in ["items", "values"]:
        if key in schema:
            form[key] = canonical(schema[key], namespace)
    return form | {key: schema[key] for key in ["symbols", "size"] if key in schema}


def fingerprint(schema):
    """CRC-64-AVRO."""
    empty = 0xC15D213AA4D7A795
    crc = empty
    for byte in json.dumps(canonical(schema), separators=(",", ":"), ensure_ascii=False).encode():
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (empty if crc & 1 else 0)
    return crc


# A line.

def unpack(data):
    """The content of a .jsonl.gz."""
    if data[:4] != b"\x1f\x8b\x08\x00" or data[4:8] != bytes(4) or data[9:10] != b"\xff":
        raise Wrong("it does not begin as the format has it")
    gzip = zlib.decompressobj(wbits=31)
    try:
        content = gzip.decompress(data) + gzip.flush()
    except zlib.error as error:
        raise Wrong(f"it does not unpack: {error}")
    if not gzip.eof or gzip.unused_data:
        raise Wrong("it is cut, or bytes follow its end")
    if content and not content.endswith(b"\n"):
        raise Wrong("its last line does not end with a line feed")
    return content


def lines_of(content):
    return content.decode("utf-8").split("\n")[:-1]


def string(text):
    return json.dumps(text, ensure_ascii=False)


def metadata_of(line):
    """As it stands: in a string, quotes are escaped, and no key after it holds an object."""
    return line[line.index(',"metadata":') + 12:line.rindex(',"created_at":"')]


def message_of(line):
    """(id, cursor, the item or None of a tombstone, bytes)"""
    message = json.loads(line)
    if message["deleted"]:
        starts_with_keys(message, TOMBSTONE, "a tombstone")
        expect([message[key] for key in ("type", "content", "content_hash", "metadata")], [None] * 4, "a tombstone's content")
        return message["id"], message["cursor"], None, 0
    starts_with_keys(message, LINE, "a message")
    if "erased_version" in message:
        expect([message[key] for key in ("type", "content", "content_hash", "metadata")], [None] * 4, "what was erased")
        erased = message["erased_version"]
        version = micros(message["updated_at"]).to_bytes(8, "big") + bytes.fromhex(erased["body_hash"])
        item = hashlib.sha256(uuid.UUID(message["id"]).bytes + version).digest()
        size = erased["content_bytes"] + erased["metadata_bytes"]
        return message["id"], message["cursor"], int.from_bytes(item, "big"), size
    content, metadata = message["content"], metadata_of(line)
    expect(message["content_hash"], sha256(content.encode()), f"content_hash of {message['id']}")
    body = f'{{"content":{string(content)},"metadata":{metadata},"type":{string(message["type"])}}}'
    version = micros(message["updated_at"]).to_bytes(8, "big") + hashlib.sha256(body.encode()).digest()
    item = hashlib.sha256(uuid.UUID(message["id"]).bytes + version).digest()
    return message["id"], message["cursor"], int.from_bytes(item, "big"), len(content.encode()) + len(metadata.encode())


class State:
    """A scope's messages: what lines come to, one after another."""

    def __init__(self):
        self.messages, self.head = {}, 0

    def apply(self, messages):
        for id, cursor, item, size in messages:
            self.messages[id] = (cursor, item, size)
            self.head = cursor

    def check(self, line):
        live = [(item, size) for cursor, item, size in self.messages.values() if item is not None]
        expect(len(live), line["count"], f"the number of messages of {line['scope']}")
        expect(sum(size for _, size in live), line["bytes"], f"the bytes of {line['scope']}")
        digest = sum(item for item, _ in live) % 2**256
        expect(f"{digest:064x}", line["digest"], f"the digest of {line['scope']}")


# A segment.

class Avro:
    """Values of an Avro encoding, one after another."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if size < 0 or self.at + size > len(self.data):
            raise Wrong("it is cut")
        self.at += size
        return self.data[self.at - size:self.at]

    def long(self):
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number >> 1 ^ -(number & 1)
            if shift > 63:
                raise Wrong("a number has no end")

    def bytes(self):
        return self.take(self.long())

    def metadata(self):
        entries = {}
        while count := self.long():
            if count < 0:
                self.long()
            for _ in range(abs(count)):
                name = self.bytes().decode()
                entries[name] = self.bytes().decode()
        return entries


def segment_of(data, path):
    """(first offset, next offset)"""
    avro = Avro(data)
    if avro.take(4) != b"Obj\x01":
        raise Wrong("it is no Avro object container file")
    header, marker = avro.metadata(), hashlib.sha256(path.encode()).digest()[:16]
    expect(header["avro.codec"], "null", "its codec")
    names = [field["name"] for field in json.loads(header["avro.schema"])["fields"]]
    expect(names, ["offset", "append_time", "key", "value"], "the fields of its records")
    expect(avro.take(16), marker, "its sync marker")
    first, end = (int(header[f"context_sync.{name}"]) for name in ("first_offset", "next_offset"))
    log, partition = header["context_sync.log_id"], header["context_sync.partition"]
    expect(path, f"segments/{log}/partition={partition}/{first}.avro", "its path")
    records, last = hashlib.sha256(), first - 1
    while avro.at < len(data):
        count, block = avro.long(), avro.bytes()
        expect(avro.take(16), marker, "a sync marker")
        records.update(block)
        block = Avro(block)
        for _ in range(count):
            before, last = last, block.long()
            block.long()
            block.bytes(), block.bytes()
            if last <= before:
                raise Wrong(f"offset {last} follows {before}")
        expect(block.at, len(block.data), "the size of a block")
    expect(records.hexdigest(), header["context_sync.records_sha256"], "the sha256 of its records")
    expect(last, end - 1, "its last offset")
    return first, end


# Paths and ids.

def encoded(name):
    name, hash = quote(name, safe=""), sha256(name.encode())
    return name if len(name) <= 255 else f"~{hash}"


def scope_folder(scope):
    tenant, kind, name = scope.split("/")
    tail = "org" if kind == "org" else f"{FOLDERS[kind]}/{encoded(name)}"
    return f"tenants/{encoded(tenant)}/{tail}"


def goes_on_in(full):
    """The hour or day that goes on from a full: `2025-12-30-10` from `2025-12-30-10-gap`, and from a recovered log's base."""
    return re.sub(r"-gap$|-base-.*$", "", full)


def table_path(table, header):
    period = header["period"]
    hour = "all" + period[10:] if header["kind"] == "compaction" else period[11:]
    return f"{table}/date={period[:10]}/hour={hour}/partition={header['partition']}.parquet"


def reference(scope):
    return uuid.uuid5(NAMESPACE, f"scope/{scope}").bytes


class Partition:
    """What the manifests of a partition have come to so far."""

    def __init__(self):
        self.previous, self.next_offset, self.hours, self.gaps = None, 0, {}, {}
        self.states, self.heads = {}, {}
        # Of each scope its newest full, and the one from before an erasure.
        self.fulls, self.gone_on_from = {}, {}


class Reader:
    def __init__(self, folder):
        self.folder, self.problems, self.listed, self.contents = folder, [], set(), {}
        self.manifests = self.states = self.segments = 0
        self.stored = set()
        for root, _, names in os.walk(folder):
            self.stored.update(os.path.relpath(os.path.join(root, name), folder).replace(os.sep, "/") for name in names)

    def check(self, path, work, *arguments):
        """What is wrong is said of `path`."""
        try:
            return work(*arguments)
        except Wrong as wrong:
            self.problems.append(f"{path}: {wrong}")
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            self.problems.append(f"{path}: it is not as the format has it: {error!r}")

    def bytes_of(self, path):
        if path not in self.stored:
            raise Wrong("it is missing")
        with open(os.path.join(self.folder, path), "rb") as file:
            return file.read()

    def run(self):
        for path in sorted(path for path in self.stored if path.startswith("_schemas/")):
            self.check(path, self.schema, path)
        partitions = {}
        for path in sorted(path for path in self.stored if path.startswith("manifests/")):
            log, _, rest = path.removeprefix("manifests/").partition("/")
            partition, _, rest = rest.partition("/")
            if partition.startswith("partition="):
                partitions.setdefault((log, int(partition[10:])), []).append((rest, path))
        segments = {}
        for path in self.stored:
            if found := re.fullmatch(r"segments/([^/]+)/partition=(\d+)/(\d+)\.avro", path):
                segments.setdefault((found[1], int(found[2])), []).append((int(found[3]), path))
        self.deleted = set(self.deleted_paths())
        self.redactions, self.left = {}, set()
        for path in sorted(path for path in self.stored if path.startswith("redactions/")):
            if path.endswith(".json"):
                self.check(path, self.redaction, path)
            else:
                self.left.add(path)
        for place in sorted(partitions.keys() | segments.keys()):
            so_far = self.partition(partitions.get(place, []))
            self.segments_beyond(so_far, sorted(segments.get(place, [])))

    def segments_beyond(self, so_far, names):
        """Those of the open hour follow one another from the last sealed hour's end, or before it, on."""
        reached = so_far.next_offset
        for first, path in names:
            self.segments += 1
            _, end = self.check(path, segment_of, self.bytes_of(path), path) or (first, first)
            reached = so_far.gaps.get(reached, reached)
            if first > reached:
                self.problems.append(f"{path}: it begins at offset {first}, not at {reached}")
            reached = max(reached, end)

    def orphans(self):
        """What no manifest lists: of an hour that is being sealed, or left by a crash."""
        of_archive = (path for path in self.stored if path.startswith(("tenants/", "events/", "messages/")))
        return sorted(path for path in of_archive if path not in self.listed)

    def schema(self, path):
        """The schemas that a decoder needs are there, by the fingerprints that records name them by."""
        expect(path, f"_schemas/{fingerprint(json.loads(self.bytes_of(path))):016x}.avsc", "its path")

    def deleted_paths(self):
        """What retention has deleted."""
        for path in sorted(self.stored):
            if re.fullmatch(r"manifests/[^/]+/partition=\d+/expired/.+\.jsonl\.gz", path):
                yield from self.check(path, self.expired, path) or ()

    def expired(self, path):
        data = self.bytes_of(path)
        lines = [json.loads(line) for line in lines_of(unpack(data))]
        header, objects, last = lines[0], lines[1:-1], lines[-1]
        starts_with_keys(header, ["format", "kind", "log_id", "partition", "class", "period"], "the header")
        folder = f"manifests/{header['log_id']}/partition={header['partition']}/expired/{header['class']}/{header['period']}"
        expect(path, f"{folder}/{sha256(data)}.jsonl.gz", "its path")
        expect(last, {"objects": len(objects)}, "the trailer")
        return [line["path"] for line in objects]

    def redaction(self, path):
        """What took the place of a table, without what was erased."""
        record = json.loads(self.bytes_of(path))
        starts_with_keys(record, ["format", "kind", "erasure_id", "scope", "old", "new"], "the record")
        old, new = record["old"], record["new"]
        expect(path, f"redactions/{old['sha256']}.json", "its path")
        expect(new["rows"], old["rows"], "the rows of what took its place")
        stem = re.sub(r"(-[0-9a-f]{16})?\.parquet$", "", old["path"])
        expect(new["path"], f"{stem}-{old['sha256'][:16]}.parquet", "where it lies")
        self.redactions[old["sha256"]] = new
        self.listed.add(old["path"])  # until it is deleted

    def partition(self, names):
        kinds = {kind: {} for kind in ("hour", "full", "on-demand", "compaction")}
        for rest, path in names:
            kind, _, name = rest.partition("/")
            if kind in kinds:
                kinds[kind][name.removesuffix(".jsonl.gz")] = path
        so_far, compacted = Partition(), {}
        compactions = {}
        for path in kinds["compaction"].values():
            manifest = compactions[path] = self.check(path, self.manifest, path, "compaction", "hours")
            for hour in manifest[2] if manifest else ():
                compacted.update((file["path"], file) for file in (hour["events"], hour["messages"]) if file)
        # A full stands before the first hour of its day, one after a gap before its hour.
        order = sorted([(goes_on_in(name), 0, path) for name, path in kinds["full"].items()] +
                       [(name, 1, path) for name, path in kinds["hour"].items()])
        for _, is_hour, path in order:
            self.check(path, self.hour if is_hour else self.full, path, so_far, compacted)
        for path in kinds["on-demand"].values():
            self.check(path, self.on_demand, path)
        for path, manifest in compactions.items():
            if manifest:
                self.check(path, self.compaction, path, manifest, so_far)
        for backup in so_far.gone_on_from.values():
            left = f"redactions/{backup['sha256']}.jsonl.gz"
            if backup["path"] not in self.stored and left not in self.left:
                self.problems.append(f"{left}: it is missing")
        return so_far

    def manifest(self, path, kind, trailer="scopes"):
        """(hash, header, the lines between header and trailer)"""
        self.manifests += 1
        data = self.bytes_of(path)
        lines = [json.loads(line) for line in lines_of(unpack(data))]
        header, body, last = lines[0], lines[1:-1], lines[-1]
        if header["format"] > 1:
            raise Wrong(f"it is of format {header['format']}")
        starts_with_keys(header, HEADER, "the header")
        expect(last, {trailer: len(body)}, "the trailer")
        expect(header["kind"], kind, "its kind")
        folder = kind.replace("_", "-")
        expect(path, f"manifests/{header['log_id']}/partition={header['partition']}/{folder}/{header['period']}.jsonl.gz", "its path")
        if trailer == "scopes":
            references = [reference(line["scope"]) for line in body]
            expect(references, sorted(set(references)), "the order of its scopes")
        return sha256(data), header, body

    def hour(self, path, so_far, compacted):
        hash, header, scopes = self.manifest(path, "hour")
        expect(header["previous"], so_far.previous, "the manifest before it")
        gaps = {gap["first_offset"]: gap["next_offset"] for gap in header["gaps"]}
        expect(header["first_offset"], gaps.get(so_far.next_offset, so_far.next_offset), "its first offset")
        so_far.gaps.update(gaps)
        so_far.previous, so_far.next_offset = {"path": path, "sha256": hash}, header["next_offset"]
        so_far.hours[path] = (hash, header)
        for table in ("events", "messages"):
            file = header[table]
            if file and not (file["path"] not in self.stored and compacted.get(file["path"]) == file):
                self.check(file["path"], self.table, table, header)
        for line in scopes:
            self.check(path, self.hour_scope, header, line, so_far)

    def table(self, table, header):
        file = header[table]
        expect(file["path"], table_path(table, header), "its path")
        while file["sha256"] in self.redactions:
            file = self.redactions[file["sha256"]]
        data = self.object(file)
        if data and (data[:4], data[-4:]) != (b"PAR1", b"PAR1"):
            raise Wrong("it is no Parquet file")

    def object(self, file):
        """The bytes of a listed object, but of what retention has deleted."""
        self.listed.add(file["path"])
        if file["path"] not in self.stored and file["path"] in self.deleted:
            return None
        data = self.bytes_of(file["path"])
        expect(len(data), file["size_bytes"], "its size")
        expect(sha256(data), file["sha256"], "its sha256")
        return data

    def backup(self, scope, backup):
        """The messages of a backup's object; None of one that retention has deleted."""
        starts_with_keys(backup, BACKUP, "a backup")
        data = self.object(backup)
        if data is None:
            return None
        content = unpack(data)
        expect(sha256(content), backup["content_sha256"], "the sha256 of its content")
        messages = [message_of(line) for line in lines_of(content)]
        expect(len(messages), backup["lines"], "its number of lines")
        expect(sum(item is not None for _, _, item, _ in messages), backup["record_count"], "its number of live messages")
        cursors = [backup["cursor_first"] - 1] + [cursor for _, cursor, _, _ in messages]
        if any(after <= before for before, after in zip(cursors, cursors[1:])) or cursors[-1] > backup["cursor_last"]:
            raise Wrong(f"its cursors are not in order, or not those of its manifest: {cursors}")
        return messages

    def scheduled(self, header, line, kind):
        """Path and id of a scheduled backup follow from scope and period."""
        scope, backup = line["scope"], line["backup"]
        name = backup["path"].rpartition("/")[2].removesuffix(".jsonl.gz")
        # The name of a full after a gap ends with the offset where the state was taken up.
        period = re.sub(r"(?<=-gap)-\d+$", "", name)
        expect(backup["type"], kind, f"the type of {scope}")
        expect(backup["path"], f"{scope_folder(scope)}/{kind}/{name}.jsonl.gz", f"the path of {scope}")
        expect(backup["id"], str(uuid.uuid5(NAMESPACE, f"backup/{scope}/{kind}/{period}")), f"the id of {scope}")
        expect(backup["cursor_last"], line["head"], f"the last cursor of {scope}")
        return period

    def hour_scope(self, header, line, so_far):
        starts_with_keys(line, SCOPE, "a scope")
        scope, backup = line["scope"], line["backup"]
        if line.get("erased", 0) > so_far.heads.get(scope, 0):
            # Nothing from before is in it, but what is left of the full that a fold goes on from.
            so_far.states[scope] = State()
            if line["erased"] not in self.requested(header, scope):
                raise Wrong(f"no request says that {scope} was erased at {line['erased']}")
            if scope in so_far.fulls:
                so_far.gone_on_from[scope] = so_far.fulls[scope]
        state = so_far.states.setdefault(scope, State())
        before, so_far.heads[scope] = so_far.heads.get(scope, 0), line["head"]
        if backup is None:
            expect(line["head"], before, f"the head of {scope}, which did not change,")
        else:
            expect(self.scheduled(header, line, "incremental"), header["period"], f"the period of {scope}")
            expect(backup["cursor_first"], before + 1, f"the first cursor of {scope}")
            messages = self.check(backup["path"], self.backup, scope, backup)
            if messages is None or state is None:
                # Not known until the next full.
                so_far.states[scope] = state = None
            else:
                state.apply(messages)
        if state is not None:
            self.states += 1
            state.check(line)

    def requested(self, header, scope):
        """The cursors of the erasures of a scope that were asked for."""
        folder = f"manifests/{header['log_id']}/partition={header['partition']}/erasures/"
        requests = (path for path in self.stored if path.startswith(folder) and path.endswith("/request.json"))
        requests = [json.loads(self.bytes_of(path)) for path in requests]
        return [request["cursor"] for request in requests if request["scope"] == scope]

    def full(self, path, so_far, _):
        _, header, scopes = self.manifest(path, "full")
        expect(header["previous"], so_far.previous, "the newest hour")
        expect(header["first_offset"], header["next_offset"], "its first offset")
        if header.get("commands"):
            self.check(header["commands"]["path"], self.commands, header["commands"])
        if header["period"].endswith("-gap"):
            # Nothing goes on across a gap.
            so_far.states, so_far.heads = {}, {}
        for line in scopes:
            self.check(path, self.full_scope, header, line, so_far)

    def commands(self, file):
        lines = [json.loads(line) for line in lines_of(unpack(self.object(file)))]
        expect(len(lines), file["rows"], "its number of lines")
        for line in lines:
            starts_with_keys(line, ["id", "scope", "offset", "outcome"], "a command")

    def full_scope(self, header, line, so_far):
        starts_with_keys(line, SCOPE, "a scope")
        scope, backup = line["scope"], line["backup"]
        period = self.scheduled(header, line, "full")
        if goes_on_in(period) > goes_on_in(header["period"]):
            raise Wrong(f"{scope} has a backup of a later day")
        expect(backup["cursor_first"], 1, f"the first cursor of {scope}")
        if backup["path"] not in self.contents:
            self.contents[backup["path"]] = self.check(backup["path"], self.backup, scope, backup)
        messages = self.contents[backup["path"]]
        left = f"redactions/{backup['sha256']}.jsonl.gz"
        if messages is None and left in self.left:
            # A fold may go on from it; nobody restores it.
            rest = State()
            rest.apply([message_of(text) for text in lines_of(unpack(self.bytes_of(left)))])
            self.check(left, rest.check, line)
        so_far.fulls[scope] = backup
        so_far.gone_on_from.pop(scope, None)
        so_far.states[scope] = state = None if messages is None else State()
        so_far.heads[scope] = line["head"]
        if state is not None:
            state.apply(messages)
            self.states += 1
            state.check(line)

    def on_demand(self, path):
        _, header, scopes = self.manifest(path, "on_demand")
        expect(len(scopes), 1, "its number of scopes")
        line, backup = scopes[0], scopes[0]["backup"]
        starts_with_keys(line, SCOPE, "a scope")
        expect((backup["id"], backup["type"]), (header["period"], "on_demand"), "its backup")
        folder, name = re.escape(f"{scope_folder(line['scope'])}/on-demand/"), re.escape(backup["id"])
        if not re.fullmatch(rf"{folder}\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\dZ-{name}\.jsonl\.gz", backup["path"]):
            raise Wrong(f"its backup lies in {backup['path']}")
        expect((backup["cursor_first"], backup["cursor_last"]), (1, line["head"]), "its cursors")
        messages = self.check(backup["path"], self.backup, line["scope"], backup)
        if messages is not None:
            state = State()
            state.apply(messages)
            self.states += 1
            state.check(line)

    def compaction(self, path, manifest, so_far):
        _, header, hours = manifest
        headers = []
        for hour in hours:
            starts_with_keys(hour, ["manifest", "events", "messages"], "an hour")
            hash, of_hour = so_far.hours[hour["manifest"]["path"]]
            expect(hour["manifest"]["sha256"], hash, f"the hash of {hour['manifest']['path']}")
            expect((hour["events"], hour["messages"]), (of_hour["events"], of_hour["messages"]), "the files of an hour")
            headers.append(of_hour)
        expect(header["previous"], hours[-1]["manifest"], "the newest hour")
        expect(header["first_offset"], headers[0]["first_offset"], "its first offset")
        expect(header["next_offset"], headers[-1]["next_offset"], "its next offset")
        for table in ("events", "messages"):
            files = [of_hour[table] for of_hour in headers if of_hour[table]]
            expect(header[table]["rows"] if header[table] else 0, sum(file["rows"] for file in files), f"the rows of {table}")
            if header[table]:
                self.check(header[table]["path"], self.table, table, header)


def main():
    reader = Reader(sys.argv[1])
    reader.run()
    for problem in reader.problems:
        print(problem)
    for path in reader.orphans():
        print(f"{path}: no manifest lists it, which is no loss")
    if not reader.problems:
        print(f"{reader.manifests} manifests, {len(reader.listed)} objects, {reader.states} states, {reader.segments} segments: all as the format has it")
    return 1 if reader.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
