#!/usr/bin/python3
"""Decodes packs, written from spec/pack.md alone, and cuts files as spec/chunker.md says.

    packdecode.py FILE…     prints the records of packs

Needs python3-xxhash, python3-lz4 and python3-zstandard."""
import hashlib
import os
import re
import struct
import sys

import lz4.block
import xxhash
import zstandard

MIB = 1 << 20


class Bad(Exception):
    pass


def want(ok, why):
    if not ok:
        raise Bad(why)


def xxh3(data, seed=0):
    return xxhash.xxh3_64_intdigest(data, seed)


def parse_header(data, name_id):
    want(len(data) >= 32, "no header")
    magic, version, features, pack_id, checksum = struct.unpack("<8sIIQQ", data[:32])
    want(magic == b"lam-pack", "magic")
    want(checksum == xxh3(data[:24]), "checksum of the header")
    want(version in (1, 2) and features == 0, "version")
    want(pack_id == name_id, "id")
    return version


def parse_chunks(table, count):
    for i in range(count):
        yield table[36 * i:36 * i + 32], struct.unpack_from("<I", table, 36 * i + 32)[0]


def decode_frame(codec, frame, raw_len):
    if codec == 0:
        return frame
    try:
        if codec == 1:
            return lz4.block.decompress(frame, uncompressed_size=raw_len)
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=raw_len)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as e:
        raise Bad(str(e)) from e


def parse_digest(raw):
    size = {1: 32, 2: 64}.get(raw[0], 0)
    want(size and not any(raw[1 + size:]), "digest")
    return {1: "sha256:", 2: "sha512:"}[raw[0]] + raw[1:1 + size].hex()


def parse_recipe(table):
    content = {"blob": parse_digest(table[:65]), "recipe": table[96:128], "wrap": table[65]}
    want(table[66:68] == bytes(2), "zero fields")
    (content["analysis"], content["blob_bytes"], content["recipe_bytes"],
     content["corrections"]) = struct.unpack("<IQQQ", table[68:96])
    text = table[128:].rstrip(b"\0")
    want(0 not in text and len(text) < 96 and any(content["recipe"]), "recipe")
    content["text"] = text.decode()
    return content


def parse_record(data, at, version):
    """Kind, length and content of the record at `at`."""
    want(len(data) - at >= 56, "record is cut off")
    (magic, kind, codec, zero, table_len, count, stored, raw_len, raw_sum, frame_sum, size,
     checksum) = struct.unpack_from("<4sBBHIIIIQQQQ", data, at)
    want(magic == b"lrec" and zero == 0, "no record")
    tables = {1: 36 * count, 2: 32 + 36 * count, 3: 192, 4: 32 + 16 * count, 5: 224}
    want(tables.get(kind) == table_len, "table length")
    table = data[at + 56:at + 56 + table_len]
    frame = data[at + 56 + table_len:at + 56 + table_len + stored]
    want(len(table) == table_len and len(frame) == stored, "record is cut off")
    want(xxh3(table, xxh3(data[at:at + 48], at)) == checksum, "checksum of the record")
    content = {"kind": kind, "length": 56 + table_len + stored}
    if kind != 1:
        kept_list = kind == 2 and codec == 3 and count > 0 and version == 2
        want(not (codec and not kept_list or stored or raw_len or raw_sum or frame_sum), "zero fields")
    if kind == 1:
        want(1 <= count <= 65536 and size == 0 and 1 <= raw_len <= 4 * MIB and codec <= 3, "block")
        want(codec != 3 or (count == 1 and version == 2), "kept frame")
        most = {0: raw_len, 3: raw_len + 4096}.get(codec, raw_len - 1)
        want((raw_len if codec == 0 else 1) <= stored <= most, "stored length")
        want(xxh3(frame) == frame_sum, "checksum of the frame")
        raw = decode_frame(codec, frame, raw_len)
        want(len(raw) == raw_len and xxh3(raw) == raw_sum, "decoded block")
        content["chunks"], start = [], 0
        for name, word in parse_chunks(table, count):
            length = word & 0x7FFFFFFF
            want(1 <= length <= MIB // 2, "length of a chunk")
            content["chunks"].append((name, bool(word >> 31), raw[start:start + length]))
            start += length
        want(start == raw_len, "chunks do not fill the block")
    elif kind == 2:
        want(count == 0 or 2 <= count <= 1 << 22, "object")
        content["object"], content["size"] = table[:32], size
        content["refs"] = list(parse_chunks(table[32:], count))
        want(all(1 <= n <= MIB // 2 for _, n in content["refs"]), "length of a chunk")
        want(sum(n for _, n in content["refs"]) == size, "chunks do not fill the object")
    elif kind == 3:
        want(count == 0 and size == 0 and table[191] == 0, "layer")
        content["blob"], content["diff_id"] = parse_digest(table[:65]), parse_digest(table[65:130])
        (content["tar_bytes"], content["content_bytes"], content["entries"], content["listing"],
         content["listing_version"], content["compression"]) = struct.unpack("<QQQ32sIB", table[130:191])
    elif kind == 5:
        want(count == 0 and size == 0, "recipe")
        content.update(parse_recipe(table))
    elif kind == 4:
        want(size == at, "footer's offset")
        content["sha256"] = table[:32]
        content["entries"] = [struct.unpack_from("<QII", table, 32 + 16 * i) for i in range(count)]
    return content


def parse_pack(data, name_id):
    """The records, whether the pack is sealed, and where the last record ends."""
    version = parse_header(data, name_id)
    footer = None
    if data[-16:-8] == b"lam-seal":
        offset = struct.unpack("<Q", data[-8:])[0]
        try:
            footer = parse_record(data, offset, version)
            want(footer["kind"] == 4 and offset + footer["length"] == len(data) - 16, "footer")
        except Bad:
            footer = None
    at, records = 32, []
    end = offset if footer else len(data)
    while at < end:
        try:
            record = parse_record(data, at, version)
            want(record["kind"] != 4, "a footer in the middle")
            want(record["kind"] != 5 or version >= 2, "a recipe in a pack of version 1")
            if footer:
                want(len(records) < len(footer["entries"]) and
                     footer["entries"][len(records)] == (at, record["length"], record["kind"]), "entry")
        except Bad:
            if footer:
                raise
            break
        records.append(record)
        at += record["length"]
    if footer:
        want(at == end and len(records) == len(footer["entries"]), "footer's entries")
        want(hashlib.sha256(data[:end]).digest() == footer["sha256"], "SHA-256")
    return records, footer is not None, at


def parse_file(path):
    with open(path, "rb") as f:
        data = f.read()
    name = os.path.basename(path)
    pack_id = int(name[:16], 16) if re.fullmatch("[0-9a-f]{16}.pack", name) else struct.unpack_from("<Q", data, 16)[0]
    return parse_pack(data, pack_id)


def fsverity(data):
    """The fs-verity digest of the kernel: SHA-256, blocks of 4 KiB, no salt."""
    def pad(b):
        return b + bytes(-len(b) % 4096)
    level = [hashlib.sha256(pad(data[i:i + 4096])).digest() for i in range(0, len(data), 4096)]
    while len(level) > 1:
        joined = b"".join(level)
        level = [hashlib.sha256(pad(joined[i:i + 4096])).digest() for i in range(0, len(joined), 4096)]
    root = level[0] if level else bytes(32)
    descriptor = struct.pack("<BBBBIQ64s32s144s", 1, 1, 12, 0, 0, len(data), root, b"", b"")
    return hashlib.sha256(descriptor).digest()


GEAR = [int.from_bytes(hashlib.sha256(b"lamina chunker gear 1" + bytes([b])).digest()[:8], "little")
        for b in range(256)]


def cut(data):
    """Lengths of the chunks of a file."""
    if len(data) <= 262144:
        return [len(data)] if data else []
    cuts, base = [], 0
    while base < len(data):
        left = len(data) - base
        end = min(left, 262144)
        found, h = end, 0
        if left <= 32768:
            end = 0
        for i in range(32768, end & ~1):
            h = (2 * h + GEAR[data[base + i]]) & 0xFFFFFFFFFFFFFFFF
            if h & (0xFFFFC00000000000 if i < 98304 else 0xFFFE000000000000) == 0:
                found = i + 1
                break
        cuts.append(found if left > 32768 else left)
        base += cuts[-1]
    return cuts


def show(record):
    words = [{1: "block", 2: "object", 3: "layer", 5: "recipe"}[record["kind"]], str(record["length"])]
    for name, whole, raw in record.get("chunks", []):
        words.append(f"{name.hex()[:16]}{'*' if whole else ''}:{len(raw)}")
    if record["kind"] == 2:
        words += [record["object"].hex()[:16], str(record["size"])]
        words += [f"{name.hex()[:16]}:{n}" for name, n in record["refs"]]
    if record["kind"] == 3:
        words += [record["blob"], record["diff_id"], str(record["tar_bytes"])]
    if record["kind"] == 5:
        words += [record["blob"], record["recipe"].hex()[:16], record["text"]]
    return " ".join(words)


def main():
    for path in sys.argv[1:]:
        records, sealed, end = parse_file(path)
        for record in records:
            print(show(record))
        print("sealed" if sealed else "open", end)


if __name__ == "__main__":
    main()
