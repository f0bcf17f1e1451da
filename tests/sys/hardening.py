#!/usr/bin/python3
"""The programs were built with what makes a fault harder to use: position independent, all
relocations read-only, no executable stack, no segment that is written and executed, stack
protectors, checked calls of libc, no stack clash, control flow protection."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import lamina  # noqa: E402

BUILD = os.path.join(lamina.ROOT, "build/release")


def readelf(*args):
    return subprocess.run(["readelf", "-W", *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=True).stdout


def check_program(checks, path):
    name = os.path.basename(path)
    checks.check("DYN (Position-Independent Executable file)" in readelf("-h", path), f"{name}: position independent")
    segments = readelf("-l", path)
    checks.check("GNU_RELRO" in segments, f"{name}: read-only relocations")
    checks.check(re.search(r"\(FLAGS_1\).*NOW", readelf("-d", path)), f"{name}: ... all of them, at the start")
    stack = re.search(r"GNU_STACK.* (R?W?E?) +0x", segments)
    checks.check(stack and "E" not in stack.group(1), f"{name}: no executable stack", segments)
    loads = re.findall(r"LOAD +(?:0x\w+ +){5}(R? ?W? ?E?)", segments)
    checks.check(loads and not any("W" in flags and "E" in flags for flags in loads), f"{name}: written or executed", str(loads))
    symbols = readelf("--dyn-syms", path)
    checks.check("__stack_chk_fail" in symbols, f"{name}: stack protectors")
    checks.check(re.search(r"__(memcpy|vsnprintf|snprintf|read|memmove)_chk", symbols), f"{name}: checked calls")
    libraries = re.findall(r"\(RPATH\)|\(RUNPATH\)|\(TEXTREL\)", readelf("-d", path))
    checks.check(not libraries, f"{name}: libraries from where the system has them", str(libraries))


def check_object(checks, path):
    """What cannot be seen in the program, because libraries of others are in it."""
    name = os.path.relpath(path, BUILD)
    checks.check("IBT, SHSTK" in readelf("-n", path), f"{name}: control flow")
    made_by = readelf("--debug-dump=info", path)
    for flag in ("-fstack-clash-protection", "-fstack-protector-strong", "-O2"):
        checks.check(flag in made_by, f"{name}: {flag}")


def main():
    checks = lamina.Checks()
    lamina.need("readelf")
    check_program(checks, lamina.PROGRAM)
    if lamina.PROGRAM != BUILD + "/lamina":
        checks.finish()
    check_program(checks, BUILD + "/decoder")
    for path in ("cas/tar.o", "registry/http.o", "decoder_obj/cas/tar.o", "decoder_obj/tools/decoder/confine.o"):
        if checks.check(os.path.exists(f"{BUILD}/{path}"), f"{path}: is there"):
            check_object(checks, f"{BUILD}/{path}")
    checks.finish()


if __name__ == "__main__":
    main()
