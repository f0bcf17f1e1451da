#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Decodes packs, the journal of names and index entries of a store, from
spec/pack.md, spec/journal.md and spec/index.md alone, and prints them as text.

  decode.py pack FILE       decode.py journal FILE       decode.py index < dump

Every digest and checksum is computed and compared; anything a reader must
reject ends the program with status 1 and a message.
"""
import hashlib
import struct
import sys

import lz4.block
import xxhash
import zstandard


class Reject(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Reject(what)


def xxh3(data, seed=0):
    return xxhash.xxh3_64_intdigest(data, seed)


def verity(data):
    """fs-verity: Merkle tree of SHA-256 over 4 KiB blocks, no salt."""
    level = [data[i:i + 4096].ljust(4096, b"\0") for i in range(0, len(data), 4096)]
    root = bytes(32)
    if level:
        hashes = [hashlib.sha256(b).digest() for b in level]
        while len(hashes) > 1:
            rows = [b"".join(hashes[i:i + 128]).ljust(4096, b"\0")
                    for i in range(0, len(hashes), 128)]
            hashes = [hashlib.sha256(r).digest() for r in rows]
        root = hashes[0]
    descriptor = struct.pack("<BBBBIQ", 1, 1, 12, 0, 0, len(data)) + root.ljust(64, b"\0")
    return hashlib.sha256(descriptor.ljust(256, b"\0")).digest()


class Reader:
    """Fields as spec/index.md, Conventions, has them."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(self.at + n <= len(self.data), "ends early")
        self.at += n
        return self.data[self.at - n:self.at]

    def u8(self):
        return self.take(1)[0]

    def le32(self):
        return struct.unpack("<I", self.take(4))[0]

    def le64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def varint(self, limit=2**64 - 1):
        value, shift = 0, 0
        while True:
            byte = self.u8()
            need(shift < 70, "varint too long")
            value |= (byte & 0x7f) << shift
            if not byte & 0x80:
                need(byte != 0 or shift == 0, "varint not shortest")
                need(value <= limit, "number out of range")
                return value
            shift += 7

    def digest(self):
        algorithm = self.u8()
        need(algorithm in (1, 2), "unknown algorithm")
        return ("sha256:", "sha512:")[algorithm - 1] + self.take((32, 64)[algorithm - 1]).hex()

    def text(self, limit):
        raw = self.take(self.varint(limit))
        need(0 not in raw, "zero byte in a text")
        return raw.decode()

    def rest(self):
        return self.take(len(self.data) - self.at)

    def end(self):
        need(self.at == len(self.data), "bytes left over")


# ---- packs ----

MAGIC_RECORD = b"lrec"


def pack_header(data, expected_id=None):
    need(len(data) >= 32 and data[:8] == b"lam-pack", "no pack")
    version, features, pack_id, checksum = struct.unpack("<IIQQ", data[8:32])
    need(version in (1, 2) and features == 0, "version or features")
    need(checksum == xxh3(data[:24]), "checksum of the header")
    need(expected_id is None or pack_id == expected_id, "id")
    return pack_id


def pack_record(data, at):
    need(at + 56 <= len(data), "ends early")
    head = data[at:at + 56]
    kind, codec, zero = struct.unpack("<BBH", head[4:8])
    table_bytes, count, stored, raw = struct.unpack("<IIII", head[8:24])
    raw_sum, stored_sum, size, checksum = struct.unpack("<QQQQ", head[24:56])
    need(head[:4] == MAGIC_RECORD and zero == 0 and kind in (1, 2, 3, 4, 5), "no record")
    need(table_bytes == {1: 36 * count, 2: 32 + 36 * count, 3: 192, 4: 32 + 16 * count,
                          5: 224}[kind],
         "table length")
    need(at + 56 + table_bytes + stored <= len(data), "ends early")
    table = data[at + 56:at + 56 + table_bytes]
    need(checksum == xxh3(table, xxh3(head[:48], at)), "checksum of the record")
    frame = data[at + 56 + table_bytes:at + 56 + table_bytes + stored]
    need(kind == 1 or (codec, stored, raw, raw_sum, stored_sum) == (0, 0, 0, 0, 0), "not zero")
    return kind, codec, count, raw, raw_sum, stored_sum, size, table, frame


def decode_frame(codec, frame, raw):
    need(codec in (0, 1, 2), "codec")
    if codec == 0:
        return frame
    if codec == 1:
        return lz4.block.decompress(frame, uncompressed_size=raw)
    return zstandard.ZstdDecompressor().decompress(frame, max_output_size=raw)


def print_block(at, record):
    _, codec, count, raw, raw_sum, stored_sum, size, table, frame = record
    need(size == 0 and 1 <= count <= 65536 and 1 <= raw <= 4 << 20, "out of range")
    need(len(frame) == raw if codec == 0 else 1 <= len(frame) < raw, "stored length")
    need(xxh3(frame) == stored_sum, "checksum of the frame")
    block = decode_frame(codec, frame, raw)
    need(len(block) == raw and xxh3(block) == raw_sum, "decoded block")
    offset = 0
    frame_at = at + 56 + len(table)
    for i in range(count):
        name, word = table[36 * i:36 * i + 32], struct.unpack("<I", table[36 * i + 32:36 * i + 36])[0]
        whole, length = word >> 31, word & 0x7fffffff
        need(1 <= length <= 524288, "length of a chunk")
        chunk = block[offset:offset + length]
        need((verity(chunk) if whole else hashlib.sha256(chunk).digest()) == name,
             "digest of a chunk")
        print(f"chunk {name.hex()} codec={codec} checksum={raw_sum} block={frame_at} "
              f"stored={len(frame)} raw={raw} offset={offset} length={length}")
        if whole:
            print(f"object {name.hex()} size={length} chunks=1")
        offset += length
    need(offset == raw, "chunks do not fill the block")


def print_object(record):
    _, _, count, _, _, _, size, table, _ = record
    need(count != 1, "count")
    total = 0
    refs = []
    for i in range(count):
        name, length = struct.unpack("<32sI", table[32 + 36 * i:68 + 36 * i])
        need(1 <= length <= 524288, "length of a chunk")
        refs.append(f"{name.hex()}:{length}")
        total += length
    need(total == size, "chunks do not fill the object")
    print(f"object {table[:32].hex()} size={size} chunks={count} {' '.join(refs)}".rstrip())


def padded_digest(raw):
    length = {1: 32, 2: 64}.get(raw[0])
    need(length is not None and not any(raw[1 + length:]), "digest")
    return ("sha256:", "sha512:")[raw[0] - 1] + raw[1:1 + length].hex()


def print_layer(record):
    table, size = record[7], record[6]
    need(size == 0 and table[191] == 0, "not zero")
    tar, content, entries = struct.unpack("<QQQ", table[130:154])
    version, compression = struct.unpack("<IB", table[186:191])
    print(f"layer {padded_digest(table[:65])} diff_id={padded_digest(table[65:130])} tar={tar} "
          f"content={content} entries={entries} listing={table[154:186].hex()} "
          f"version={version} compression={compression}")


def recipe_text(blob, recipe, wrap, analysis, size, recipe_bytes, corrections, text):
    return (f"{blob} recipe={recipe.hex()} wrap={wrap} analysis={analysis} blob={size} "
            f"bytes={recipe_bytes} corrections={corrections} text={text}")


def print_recipe(record):
    table, count, size = record[7], record[2], record[6]
    need(count == 0 and size == 0 and table[66:68] == b"\0\0", "not zero")
    analysis, blob_bytes, recipe_bytes, corrections = struct.unpack("<IQQQ", table[68:96])
    text = table[128:].rstrip(b"\0")
    need(0 not in text and len(text) < 96 and any(table[96:128]), "recipe")
    print("recipe " + recipe_text(padded_digest(table[:65]), table[96:128], table[65], analysis,
                                  blob_bytes, recipe_bytes, corrections, text.decode()))


def find_footer(data):
    """(offset, entries) of a sealed pack, else None."""
    if len(data) < 32 + 56 + 16 or data[-16:-8] != b"lam-seal":
        return None
    at = struct.unpack("<Q", data[-8:])[0]
    try:
        kind, _, count, _, _, _, size, table, _ = pack_record(data[:-16], at)
    except Reject:
        return None
    if kind != 4 or size != at or at + 56 + len(table) != len(data) - 16:
        return None
    need(hashlib.sha256(data[:at]).digest() == table[:32], "digest in the footer")
    return at, [struct.unpack("<QII", table[32 + 16 * i:48 + 16 * i]) for i in range(count)]


def print_pack(path):
    with open(path, "rb") as f:
        data = f.read()
    pack_id = pack_header(data)
    footer = find_footer(data)
    end = footer[0] if footer else len(data)
    print(f"pack {pack_id} sealed={int(footer is not None)} size={len(data)}"
          + (f" sha256={hashlib.sha256(data).hexdigest()}" if footer else ""))
    at, entries = 32, []
    while at < end:
        try:
            record = pack_record(data, at)
            need(record[0] != 4, "footer that does not end the file")
        except Reject:
            if footer:
                raise
            break  # an unsealed pack ends here
        length = 56 + len(record[7]) + len(record[8])
        entries.append((at, length, record[0]))
        if record[0] == 1:
            print_block(at, record)
        elif record[0] == 2:
            print_object(record)
        elif record[0] == 3:
            print_layer(record)
        else:
            need(struct.unpack("<I", data[8:12])[0] >= 2, "a recipe in a pack of version 1")
            print_recipe(record)
        at += length
    need(footer is None or entries == footer[1], "footer tells of other records")


# ---- journal ----

KINDS = {1: "link-manifest", 2: "unlink-manifest", 3: "link-blob", 4: "unlink-blob", 5: "tag",
         6: "untag", 7: "referrer", 8: "unreferrer"}


def journal_record(r):
    kind = r.u8()
    need(kind in KINDS, "unknown kind")
    repo = r.text(255)
    if kind == 1:
        digest = r.digest()
        size = r.varint()
        return ("manifests", repo, digest), f"{size} {r.text(255)}"
    if kind == 2:
        return ("manifests", repo, r.digest()), None
    if kind == 3:
        digest = r.digest()
        return ("blob-links", repo, digest), str(r.varint())
    if kind == 4:
        return ("blob-links", repo, r.digest()), None
    if kind == 5:
        tag = r.text(128)
        return ("tags", repo, tag), r.digest()
    if kind == 6:
        return ("tags", repo, r.text(128)), None
    return ("referrers", repo, r.digest() + " " + r.digest()), "" if kind == 7 else None


def print_journal(path):
    with open(path, "rb") as f:
        data = f.read()
    need(len(data) >= 64 and data[:8] == b"LAMJRNL\n", "no journal")
    version, zero = struct.unpack("<II", data[8:16])
    generation, base, snapshot_end, checksum = struct.unpack("<QQQQ", data[32:64])
    need(version == 1 and zero == 0 and checksum == xxh3(data[:56]), "header")
    need(snapshot_end >= 64, "snapshot")
    names, at, sequence = {}, 64, base
    while at + 32 <= len(data):
        magic, length, number, count, zero = struct.unpack("<IIQII", data[at:at + 24])
        group = data[at:at + 32 + length]
        if (magic != 0x5052474c or length > 64 << 20 or len(group) != 32 + length
                or struct.unpack("<Q", group[24:32])[0] != xxh3(group[:24] + bytes(8) + group[32:])
                or number != sequence + (at >= snapshot_end)):
            break
        sequence = number
        r = Reader(group[32:])
        for _ in range(count):
            key, value = journal_record(r)
            if value is None:
                names.pop(key, None)
            else:
                names[key] = value
        r.end()
        at += 32 + length
    for (family, repo, rest), value in sorted(names.items()):
        print(f"{family} {repo} {rest} {value}".rstrip())
    print(f"journal sequence={sequence} generation={generation} offset={at}")


# ---- index ----

def split_repo(key):
    repo, zero, rest = key.partition(b"\0")
    need(zero and 0 < len(repo) <= 255, "repository")
    return repo.decode(), Reader(rest)


def index_entry(family, key, value):
    r = Reader(value)
    if family == "packs":
        flags, tier, size = r.u8(), r.varint(2**32 - 1), r.varint()
        need(flags >> 1 <= 2 and len(key) == 8, "flags")
        sha256 = f" sha256={r.take(32).hex()}" if flags & 1 else ""
        text = f"{struct.unpack('>Q', key)[0]} sealed={flags & 1} density={flags >> 1} tier={tier} size={size}{sha256}"
    elif family == "chunks":
        codec, checksum = r.u8(), r.le64()
        pack, block = r.varint(), r.varint()
        stored, raw = r.varint(2**32 - 1), r.varint(4 << 20)
        offset, length = r.varint(2**32 - 1), r.varint(2**32 - 1)
        need(len(key) == 32 and offset + length <= raw, "out of range")
        text = (f"{key.hex()} pack={pack} codec={codec} checksum={checksum} block={block} "
                f"stored={stored} raw={raw} offset={offset} length={length}")
    elif family == "objects":
        size, chunks = r.varint(2**44), r.varint(2**32 - 1)
        need(len(key) == 32 and (size == 0) == (chunks == 0), "out of range")
        text = f"{key.hex()} size={size} chunks={chunks}"
    elif family == "object-chunks":
        start = r.le64()
        refs = [f"{r.take(32).hex()}:{r.le32()}" for _ in range((len(value) - 8) // 36)]
        need(len(key) == 36 and 1 <= len(refs) <= 256, "page")
        page = struct.unpack(">I", key[32:])[0]
        text = f"{key[:32].hex()} page={page} offset={start} {' '.join(refs)}"
    elif family == "layers":
        k = Reader(key)
        blob, diff_id = k.digest(), r.digest()
        k.end()
        tar, content, entries = r.varint(), r.varint(), r.varint()
        listing, version, compression = r.take(32).hex(), r.varint(2**32 - 1), r.u8()
        text = (f"{blob} diff_id={diff_id} tar={tar} content={content} entries={entries} "
                f"listing={listing} version={version} compression={compression}")
    elif family == "blobs":
        k = Reader(key)
        text = f"{k.digest()} size={r.varint()} added={r.varint()}"
        copy = r.u8() if r.at < len(value) else 0
        need(copy <= 2 and (copy or r.at == len(value)), "copy")
        text += f" copy={copy}"
        k.end()
    elif family == "recipes":
        k = Reader(key)
        blob, flags, analysis, wrap = k.digest(), r.u8(), r.varint(2**32 - 1), r.u8()
        need(flags in (0, 2, 3), "flags")
        recipe = r.take(32) if flags & 2 else bytes(32)
        need(not flags & 2 or any(recipe), "recipe without an object")
        text = recipe_text(blob, recipe, wrap, analysis, r.varint(), r.varint(), r.varint(), r.text(95))
        text += f" proved={flags & 1} reason={r.text(159)}"
        k.end()
    elif family == "trees":
        tree, size, count = r.digest(), r.varint(), r.varint(512)
        text = f"{key.hex()} tree={tree} size={size} {' '.join(r.digest() for _ in range(count))}"
    elif family == "chains":
        need(len(key) == 33 and key[:1] in b"su", "chain")
        manifest = " " + r.digest() if key[:1] == b"s" else ""
        text = f"{key[:1].decode()} {key[1:17].hex()} {key[17:].hex()}{manifest}"
    elif family == "elsewhere":
        k = Reader(key)
        text = f"{k.digest()} size={r.varint()} added={r.varint()} flags={r.u8()} manifest={r.digest()} {r.text(511)}"
        text += (f" diff_id={r.digest()} tar={r.varint()} content={r.varint()} entries={r.varint()} "
                 f"listing={r.take(32).hex()} version={r.varint(2**32 - 1)} compression={r.u8()}")
        k.end()
    elif family == "orders":
        k = Reader(key)
        kind = k.take(1)
        need(kind in b"mr", "order")
        if kind == b"m":
            text = f"m {k.digest()} {' '.join(r.take(32).hex() for _ in range(r.varint(4096)))}"
        else:
            text = f"r {k.rest().decode()} {r.digest()}"
        k.end()
    elif family == "leases":
        need(0 < len(key) <= 127 and 0 not in key, "id")
        text = f"{key.decode()} root={r.digest()} expires={r.varint()} {r.text(255)}"
    elif family == "nodes":
        k = Reader(key)
        text = f"{k.digest()} {r.text(255)}"
        k.end()
    elif family == "blob-refs":
        k = Reader(key)
        child, role, parent = k.digest(), k.take(1).decode(), k.take(16)
        k.end()
        if role in "rb":
            name = r.rest()
            need(hashlib.sha256(name).digest()[:16] == parent, "name of the parent")
            text = f"{child} {role} {name.decode()}"
        elif role in "mi":
            need(value[1:17] == parent, "digest of the parent")
            text = f"{child} {role} {r.digest()}"
        else:
            need(role == "t" and value[:16] == parent, "role")
            text = f"{child} {role} {r.take(32).hex()}"
    elif family == "object-refs":
        k = Reader(key)
        text = f"{k.take(8).hex()} {k.take(1).decode()}"
        role, parent = text[-1], k.take(16)
        need(role in "lrfs", "role")
        if role in "lr":
            need(value[1:17] == parent, "digest of the parent")
            text += f" {r.digest()}"
        else:
            text += f" {parent.hex()}"
        k.end()
    elif family == "chunk-refs":
        need(len(key) == 24, "key")
        text = f"{key[:8].hex()} {key[8:].hex()}"
    elif family == "condemned":
        kind = key[0]
        need(1 <= kind <= 6, "kind")
        if kind == 1:
            repo, k = split_repo(key[1:])
            name = f"{repo} {k.digest()}"
        else:
            k = Reader(key[1:])
            name = k.digest() if kind == 2 else k.take(32).hex()
        k.end()
        text = f"{kind} {name} since={r.varint()}"
    elif family == "pack-dead":
        need(len(key) == 8, "key")
        text = f"{struct.unpack('>Q', key)[0]} {r.varint()}"
    elif family == "meta":
        need(key == b"journal", "unknown meta")
        text = f"journal sequence={r.varint()} generation={r.varint()} offset={r.varint()}"
    else:
        repo, k = split_repo(key)
        if family == "manifests":
            text = f"{repo} {k.digest()} {r.varint()} {r.text(255)}"
        elif family == "tags":
            tag = k.rest()
            need(1 <= len(tag) <= 128, "tag")
            text = f"{repo} {tag.decode()} {r.digest()}"
        elif family == "tag-times":
            tag = k.rest()
            need(1 <= len(tag) <= 128, "tag")
            text = f"{repo} {tag.decode()} {r.digest()} pushed={r.varint()} pulled={r.varint()}"
        elif family == "blob-links":
            text = f"{repo} {k.digest()} {r.varint()}"
        else:
            need(family == "referrers", "unknown family")
            text = f"{repo} {k.digest()} {k.digest()}"
        k.end()
    r.end()
    return f"{family} {text}"


def print_index(lines):
    for line in lines:
        family, key, value = line.split()
        print(index_entry(family, bytes.fromhex(key), b"" if value == "-" else bytes.fromhex(value)))


def main():
    try:
        if sys.argv[1:2] == ["pack"]:
            print_pack(sys.argv[2])
        elif sys.argv[1:2] == ["journal"]:
            print_journal(sys.argv[2])
        elif sys.argv[1:2] == ["index"]:
            print_index(sys.stdin)
        else:
            sys.exit(__doc__)
    except Reject as why:
        sys.exit(f"decode.py: {why}")


if __name__ == "__main__":
    main()
