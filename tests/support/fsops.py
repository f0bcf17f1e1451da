"""File system operations as data: lists such as ["rename", "a", "b", 0] are carried out below a
directory, and what came of each is told in a form that can be compared between file systems: results
without device and inode numbers, errno names, times that the operation itself set as "now".

A `Side` is a process of its own that does this below one mount point, so that a hang of one file
system is found and its umask, users and descriptors are its own.

A path may start with "@N/": below the directory that descriptor slot N holds; "@N" alone is that
descriptor itself. A slot is a small number that "open" fills.
"""
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import select
import signal
import socket
import stat
import struct

libc = ctypes.CDLL(None, use_errno=True)

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, AT_FDCWD = 0x1000, 0x400, 0x100, -100
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
KEEP_SIZE, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
OFD_SETLK, OFD_GETLK = 37, 36
# Fixtures and utimens use times before this; whatever is later was set by the clock.
CLOCK_S = 1_700_000_000
FLAGS = {n: getattr(os, n) for n in (
    "O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_DIRECTORY",
    "O_NOFOLLOW", "O_TMPFILE", "O_PATH", "O_NONBLOCK", "O_SYNC", "O_DIRECT", "O_NOATIME")}


class Timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]


def flags_of(text):
    value = 0
    for name in text.split("|"):
        value |= FLAGS["O_" + name]
    return value


def content(n, seed=0):
    """Bytes of a file that is made or written: cheap, and different for each seed."""
    block = hashlib.shake_128(b"%d" % seed).digest(4096)
    return (block * (n // 4096 + 1))[:n]


def clock(ns):
    return ns if ns < CLOCK_S * 10**9 else "now"


def call(name, *args):
    done = getattr(libc, name)(*args)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def kind_of(mode):
    return {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
            stat.S_IFBLK: "block", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}[stat.S_IFMT(mode)]


def told(st):
    """What a comparison looks at of stat(2)."""
    out = {"kind": kind_of(st.st_mode), "mode": f"{stat.S_IMODE(st.st_mode):04o}", "owner": f"{st.st_uid}:{st.st_gid}",
           "mtime": clock(st.st_mtime_ns)}
    if out["kind"] != "dir":
        out["nlink"] = st.st_nlink
    if out["kind"] in ("file", "symlink"):
        out["size"] = st.st_size
    if out["kind"] in ("char", "block"):
        out["rdev"] = f"{os.major(st.st_rdev)}:{os.minor(st.st_rdev)}"
    return out


def short(data):
    return data.decode("latin-1") if len(data) <= 64 else f"{len(data)}:{hashlib.sha256(data).hexdigest()[:16]}"


def dents(fd, size=32768):
    """One getdents64(2): (name, type, inode number, offset of what follows) for each."""
    buf = ctypes.create_string_buffer(size)
    n = call("syscall", 217, fd, buf, size)
    out, at = [], 0
    while at < n:
        ino, off, length, kind = struct.unpack_from("<QqHB", buf, at)
        name = buf.raw[at + 19:at + length].split(b"\0", 1)[0]
        out.append((os.fsdecode(name), kind, ino, off))
        at += length
    return out


def all_dents(fd, size=32768):
    out = []
    while piece := dents(fd, size):
        out += piece
    return out


def holes(fd, size):
    """Ranges that hold data, to 4 KiB."""
    out, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        out.append([start // 4096, (at + 4095) // 4096])
    return out


def read_file(path):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        pieces = []
        while piece := os.read(fd, 1 << 20):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def xattrs_of(path):
    return {name: short(os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))}


def dump(root):
    """The tree below a directory: path -> what it is. Contents, xattrs, groups of hard links; whether
    readdir(3) tells types and inode numbers as stat(2) does. A file that cannot be read says so."""
    out, groups = {}, {}

    def enter(path, entry_type, entry_ino):
        try:
            st = os.lstat(path)
        except OSError as e:
            out[os.path.relpath(path, root)] = {"error": errno.errorcode[e.errno]}
            return
        entry = told(st)
        if entry_type is not None and entry_type != stat.S_IFMT(st.st_mode) >> 12:
            entry["d_type"] = entry_type
        if entry_ino is not None and entry_ino != st.st_ino:
            entry["d_ino"] = "differs"
        if entry["kind"] == "file":
            try:
                entry["data"] = short(read_file(path))
            except OSError as e:
                entry["data"] = errno.errorcode[e.errno]
        elif entry["kind"] == "symlink":
            entry["target"] = os.readlink(path)
        if entry["kind"] != "dir" and st.st_nlink > 1:
            entry["group"] = groups.setdefault((st.st_dev, st.st_ino), os.path.relpath(path, root))
        try:
            xattrs = xattrs_of(path)
        except OSError as e:
            xattrs = errno.errorcode[e.errno]
        if xattrs:
            entry["xattrs"] = xattrs
        out[os.path.relpath(path, root)] = entry
        if entry["kind"] == "dir":
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    names = all_dents(fd)
                finally:
                    os.close(fd)
            except OSError as e:
                entry["list"] = errno.errorcode[e.errno]
                return
            if st.st_nlink not in (1, 2 + sum(kind == 4 for name, kind, _, _ in names if name not in (".", ".."))):
                entry["nlink"] = st.st_nlink
            if len({n for n, _, _, _ in names}) != len(names):
                entry["listing"] = "a name twice"
            for name, kind, ino, _ in sorted(names):
                if name not in (".", ".."):
                    enter(f"{path}/{name}", kind, ino)

    enter(root, None, None)
    return out


class Ops:
    """Carries operations out in the current directory."""

    def __init__(self):
        self.slots = {}
        self.maps = {}
        self.marked = None

    def close(self):
        for m in self.maps.values():
            m.close()
        for fd in self.slots.values():
            os.close(fd)
        self.slots, self.maps = {}, {}

    def path(self, text):
        """(path, directory descriptor or None)"""
        if not text.startswith("@"):
            return text, None
        slot, _, rest = text[1:].partition("/")
        return (rest or "."), self.fd(int(slot))

    def proc(self, text):
        """A path that works where no *at call exists."""
        if not text.startswith("@"):
            return text
        slot, _, rest = text[1:].partition("/")
        return f"/proc/self/fd/{self.fd(int(slot))}" + ("/" + rest if rest else "")

    def at(self, text):
        path, fd = self.path(text)
        return (AT_FDCWD if fd is None else fd), os.fsencode(path)

    def fd(self, slot):
        if slot not in self.slots:
            raise OSError(errno.EBADF, "empty slot")
        return self.slots[slot]

    def do(self, op):
        """The result of one operation: a value, or the name of an error."""
        try:
            value = getattr(self, "op_" + op[0])(*op[1:])
            return ["ok", value] if value is not None else ["ok"]
        except OSError as e:
            return ["err", errno.errorcode.get(e.errno, str(e.errno))]

    # ---- as another user ----

    def op_as(self, uid, gid, groups, op):
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(uid)
        try:
            return self.do(op)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups([])

    def op_umask(self, mask):
        os.umask(mask)

    # ---- descriptors ----

    def op_open(self, slot, path, flags, mode=0o644):
        p, d = self.path(path)
        fd = os.open(p, flags_of(flags), mode, dir_fd=d)
        if slot in self.slots:
            self.op_close(slot)
        self.slots[slot] = fd

    def op_close(self, slot):
        fd = self.fd(slot)
        if slot in self.maps:
            self.maps.pop(slot).close()
        del self.slots[slot]
        os.close(fd)

    def op_dup(self, slot, other):
        fd = os.dup(self.fd(slot))
        if other in self.slots:
            self.op_close(other)
        self.slots[other] = fd

    def op_pread(self, slot, offset, n):
        return short(os.pread(self.fd(slot), n, offset))

    def op_read(self, slot, n):
        return short(os.read(self.fd(slot), n))

    def op_pwrite(self, slot, offset, n, seed):
        return os.pwrite(self.fd(slot), content(n, seed), offset)

    def op_write(self, slot, n, seed):
        return os.write(self.fd(slot), content(n, seed))

    def op_lseek(self, slot, offset, whence):
        return os.lseek(self.fd(slot), offset, whence)

    def op_holes(self, slot):
        fd = self.fd(slot)
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            raise OSError(errno.EINVAL, "no file")
        return holes(fd, st.st_size)

    def op_fsync(self, slot):
        os.fsync(self.fd(slot))

    def op_fdatasync(self, slot):
        os.fdatasync(self.fd(slot))

    def op_ftruncate(self, slot, n):
        os.ftruncate(self.fd(slot), n)

    def op_fallocate(self, slot, mode, offset, n):
        call("fallocate", self.fd(slot), mode, ctypes.c_long(offset), ctypes.c_long(n))

    def op_fstat(self, slot):
        return told(os.fstat(self.fd(slot)))

    def op_fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def op_fchown(self, slot, uid, gid):
        os.fchown(self.fd(slot), uid, gid)

    def op_futimens(self, slot, atime, mtime):
        call("futimens", self.fd(slot), self.times(atime, mtime))

    def op_fgetxattr(self, slot, name):
        return short(os.getxattr(self.fd(slot), name))

    def op_fsetxattr(self, slot, name, value, flags=0):
        os.setxattr(self.fd(slot), name, value.encode("latin-1"), flags)

    def op_fremovexattr(self, slot, name):
        os.removexattr(self.fd(slot), name)

    def op_flistxattr(self, slot):
        return sorted(os.listxattr(self.fd(slot)))

    def op_copy_range(self, source, source_offset, target, target_offset, n):
        return os.copy_file_range(self.fd(source), self.fd(target), n, source_offset, target_offset)

    def op_sendfile(self, source, offset, target, n):
        return os.sendfile(self.fd(target), self.fd(source), offset, n)

    def op_flock(self, slot, how):
        fcntl.flock(self.fd(slot), how | fcntl.LOCK_NB)

    def op_ofd_lock(self, slot, kind, start, n):
        fcntl.fcntl(self.fd(slot), OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, n, 0))

    def op_posix_lock(self, slot, kind, start, n):
        fcntl.fcntl(self.fd(slot), fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, start, n, 0))

    def op_posix_probe(self, path):
        """What another process finds of POSIX locks: whether it may lock the whole file."""
        pid = os.fork()
        if pid == 0:
            code = 255
            try:
                fd = os.open(self.proc(path), os.O_RDWR | os.O_NONBLOCK)
                try:
                    fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
                    code = 0
                except OSError as e:
                    code = e.errno
            finally:
                os._exit(code)
        return errno.errorcode.get(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "free")

    def op_map(self, slot, n, write):
        fd = self.fd(slot)
        if slot in self.maps:
            self.maps.pop(slot).close()
        if os.fstat(fd).st_size < n:
            raise OSError(errno.EINVAL, "shorter than the map")
        self.maps[slot] = mmap.mmap(fd, n, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if write else 0))

    def op_map_write(self, slot, offset, n, seed):
        self.mapped(slot)[offset:offset + n] = content(n, seed)

    def op_map_read(self, slot, offset, n):
        return short(self.mapped(slot)[offset:offset + n])

    def op_msync(self, slot):
        self.mapped(slot).flush()

    def mapped(self, slot):
        m = self.maps.get(slot)
        if m is None:
            raise OSError(errno.EBADF, "no map")
        if os.fstat(self.fd(slot)).st_size < len(m):
            raise OSError(errno.EFAULT, "the file became shorter than the map")
        return m

    def op_fdlink(self, slot, path):
        """linkat(2) of a descriptor: how a file of O_TMPFILE gets a name."""
        call("linkat", self.fd(slot), b"", *self.at(path), AT_EMPTY_PATH)

    def op_proclink(self, slot, path):
        call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % self.fd(slot), *self.at(path), AT_SYMLINK_FOLLOW)

    # ---- names ----

    def op_creat(self, path, mode):
        p, d = self.path(path)
        os.close(os.open(p, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK, mode, dir_fd=d))

    def op_put(self, path, n, seed, mode=0o644):
        """A whole file, as a program would write it."""
        p, d = self.path(path)
        fd = os.open(p, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK, mode, dir_fd=d)
        try:
            os.write(fd, content(n, seed))
        finally:
            os.close(fd)

    def op_get(self, path):
        p, d = self.path(path)
        fd = os.open(p, os.O_RDONLY | os.O_NONBLOCK, dir_fd=d)
        try:
            return short(os.read(fd, 1 << 20))
        finally:
            os.close(fd)

    def op_mkdir(self, path, mode=0o755):
        p, d = self.path(path)
        os.mkdir(p, mode, dir_fd=d)

    def op_rmdir(self, path):
        p, d = self.path(path)
        os.rmdir(p, dir_fd=d)

    def op_unlink(self, path):
        p, d = self.path(path)
        os.unlink(p, dir_fd=d)

    def op_rename(self, a, b, flags=0):
        call("renameat2", *self.at(a), *self.at(b), flags)

    def op_link(self, a, b, flags=0):
        call("linkat", *self.at(a), *self.at(b), flags)

    def op_symlink(self, target, path):
        p, d = self.path(path)
        os.symlink(target, p, dir_fd=d)

    def op_readlink(self, path):
        p, d = self.path(path)
        return os.readlink(p, dir_fd=d)

    def op_mknod(self, path, mode, major=0, minor=0):
        p, d = self.path(path)
        os.mknod(p, mode, os.makedev(major, minor), dir_fd=d)

    def op_bind(self, path):
        """A socket as servers make them."""
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(self.proc(path))

    # ---- attributes ----

    def op_stat(self, path):
        p, d = self.path(path)
        return told(os.stat(p, dir_fd=d))

    def op_lstat(self, path):
        p, d = self.path(path)
        return told(os.stat(p, dir_fd=d, follow_symlinks=False))

    def op_times(self, path):
        st = os.lstat(self.proc(path))
        return [clock(st.st_atime_ns), clock(st.st_mtime_ns)]

    def op_same(self, a, b):
        """Whether two names are one inode."""
        one, two = (os.stat(*self.path(x)[:1], dir_fd=self.path(x)[1], follow_symlinks=False) for x in (a, b))
        return os.path.samestat(one, two)

    def op_mark(self, path):
        """Remembers which inode a name is, and keeps it, so that its number is not used again."""
        fd = os.open(self.proc(path), os.O_PATH | os.O_NOFOLLOW)
        self.marked = os.fstat(fd)
        self.slots[-1] = fd

    def op_kept(self, path):
        """Whether it still is that one: st_ino does not change by copying up. What was removed meanwhile
        may have left its number to another."""
        st = os.lstat(self.proc(path))
        if self.marked is None or os.fstat(self.slots[-1]).st_nlink == 0:
            return None
        return os.path.samestat(st, self.marked)

    def op_access(self, path, mode):
        p, d = self.path(path)
        return os.access(p, mode, dir_fd=d, effective_ids=True)

    def op_chmod(self, path, mode):
        p, d = self.path(path)
        os.chmod(p, mode, dir_fd=d)

    def op_chown(self, path, uid, gid):
        p, d = self.path(path)
        os.chown(p, uid, gid, dir_fd=d)

    def op_lchown(self, path, uid, gid):
        p, d = self.path(path)
        os.chown(p, uid, gid, dir_fd=d, follow_symlinks=False)

    def op_truncate(self, path, n):
        os.truncate(self.proc(path), n)

    @staticmethod
    def times(atime, mtime):
        out = (Timespec * 2)()
        for slot, value in zip(out, (atime, mtime)):
            if value == "now":
                slot.ns = UTIME_NOW
            elif value == "omit":
                slot.ns = UTIME_OMIT
            else:
                slot.s, slot.ns = value, 123456789
        return out

    def op_utimens(self, path, atime, mtime, follow=True):
        call("utimensat", *self.at(path), self.times(atime, mtime), 0 if follow else AT_SYMLINK_NOFOLLOW)

    def op_getxattr(self, path, name, follow=False):
        return short(os.getxattr(self.proc(path), name, follow_symlinks=follow))

    def op_setxattr(self, path, name, value, flags=0, follow=False):
        os.setxattr(self.proc(path), name, value.encode("latin-1"), flags, follow_symlinks=follow)

    def op_removexattr(self, path, name, follow=False):
        os.removexattr(self.proc(path), name, follow_symlinks=follow)

    def op_listxattr(self, path, follow=False):
        return sorted(os.listxattr(self.proc(path), follow_symlinks=follow))

    def op_statfs(self, path):
        st = os.statvfs(self.proc(path))
        return [st.f_namemax, st.f_bsize, st.f_flag & (os.ST_RDONLY | os.ST_NOSUID)]

    # ---- listings ----

    def op_list(self, path):
        p, d = self.path(path)
        fd = os.open(p, os.O_RDONLY | os.O_DIRECTORY, dir_fd=d)
        try:
            return sorted([name, kind] for name, kind, _, _ in all_dents(fd))
        finally:
            os.close(fd)

    def op_fdlist(self, slot):
        """From where the descriptor stands."""
        return sorted(name for name, _, _, _ in all_dents(self.fd(slot)))

    def op_seek_list(self, path):
        """Whether from each offset of a listing the rest of it follows."""
        fd = os.open(self.proc(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            whole = all_dents(fd, 256)
            for i, entry in enumerate(whole):
                os.lseek(fd, entry[3], os.SEEK_SET)
                if [e[0] for e in all_dents(fd)] != [e[0] for e in whole[i + 1:]]:
                    return f"differs behind {entry[0]}"
            return "good"
        finally:
            os.close(fd)

    def op_list_while(self, path, ops):
        """Lists in small pieces with an operation after each piece. Names that were there from
        beginning to end, each once: that is what POSIX promises."""
        fd = os.open(self.proc(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            before = set(os.listdir(self.proc(path)))
            seen, todo = [], list(ops)
            while piece := dents(fd, 128):
                seen += [e[0] for e in piece]
                if todo:
                    self.do(todo.pop(0))
            for op in todo:
                self.do(op)
            stayed = before & set(os.listdir(self.proc(path)))
            return {"missing": sorted(stayed - set(seen)), "twice": sorted(n for n in stayed if seen.count(n) > 1)}
        finally:
            os.close(fd)


class Side:
    """A file system under comparison: its name, and the process that works in it."""

    def __init__(self, name, point, inside=False):
        """inside: the mount is the root of the process, so that no link leads out of it."""
        self.name, self.point, self.asked = name, point, None
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            try:
                if inside:
                    os.chroot(point)
                serve(theirs, "" if inside else point)
            finally:
                os._exit(1)
        theirs.close()
        self.socket = ours
        self.file = ours.makefile("rb")

    def ask(self, *request):
        self.asked = request
        self.socket.sendall(json.dumps(request).encode() + b"\n")

    def answer(self, seconds=60):
        if not select.select([self.socket], [], [], seconds)[0]:
            raise TimeoutError(f"{self.name}: no answer within {seconds} s to {self.asked}")
        line = self.file.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the process that works there has ended")
        value = json.loads(line)
        if isinstance(value, dict) and "broken" in value:
            raise RuntimeError(f"{self.name}: {value['broken']}")
        return value

    def stop(self):
        self.socket.close()
        self.file.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)


def serve(sock, point):
    """Answers requests, one line each: "run" a list of operations in a fresh set of descriptors,
    "go" in the one that stays, "end" closes that, "dump" a tree; all below a directory of the
    mount."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lasting = Ops()
    for line in sock.makefile("rb"):
        request = json.loads(line)
        try:
            os.chdir(point + "/" + request[1])
            os.umask(0o022)
            if request[0] == "run":
                ops = Ops()
                value = [ops.do(op) for op in request[2]]
                ops.close()
            elif request[0] == "go":
                value = [lasting.do(op) for op in request[2]]
            elif request[0] == "end":
                value = lasting.close()
            else:
                value = dump(".")
            os.chdir("/")
        except Exception as e:  # told to who asked, whatever it is
            value = {"broken": f"{request[:2]}: {type(e).__name__}: {e}"}
        sock.sendall(json.dumps(value).encode() + b"\n")
