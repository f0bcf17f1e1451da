#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tools/deps.sh: what `make deps` does. Installs the packages that building,
# testing and running lamina need (Debian, root), and builds libfuse and
# libmicrohttpd where the system's are too old, and libzstd where it is another
# than recipes rely on: from source packages of other suites, statically, into
# build/deps. Its lists of those suites are private, so the system's apt stays as
# it was. With everything in place it looks and leaves, within a moment.
set -euo pipefail
cd "$(dirname "$0")/.."

FUSE_VERSION_MIN=3.18
FUSE_SUITE=forky # where the source package of libfuse comes from
# Recipes of zstd layers rely on what this very version makes (spec/recipe-zstd.md): linked statically.
ZSTD_VERSION=1.5.4
ZSTD_SUITE=bookworm
# Older ones let requests through that two programs read differently (spec/registry.md).
MHD_VERSION_MIN=1.0.1
MHD_SUITE=trixie
MODE=${1:-} # "long": what tests need that take longer, too
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
DEPS=$(readlink -m build/deps)
WORK=$DEPS/work

PACKAGES_BUILD=(gcc libc6-dev make pkg-config meson ninja-build dpkg-dev ca-certificates
	librocksdb-dev libmicrohttpd-dev libgnutls28-dev libjansson-dev libzstd-dev liblz4-dev libisal-dev
	zlib1g-dev libssl-dev libxxhash-dev libcurl4-openssl-dev libexpat1-dev libinih-dev libcap-dev
	liburing-dev libnuma-dev libcrypt-dev libseccomp-dev)
PACKAGES_TEST=(libcmocka-dev clang clang-format clang-tidy lld git python3 python3-zstandard
	python3-lz4 python3-xxhash erofs-utils umoci skopeo podman buildah containerd runc
	golang-github-containers-common fsverity attr acl libcap2-bin jq curl mandoc procps
	util-linux xz-utils zstd pigz nginx varnish chromium chromium-driver
	docker-registry openssl)
PACKAGES_LONG=(ceph-mon ceph-osd radosgw) # of `tools/deps.sh long`: of `make check-long` alone
PACKAGES_RUN=(bubblewrap crun fuse3 mount)

say() { echo "deps: $*"; }
die() {
	echo "make deps: $*" >&2
	exit 1
}

fuse_is_recent() {
	PKG_CONFIG_PATH=$DEPS/lib/pkgconfig pkg-config --atleast-version=$FUSE_VERSION_MIN fuse3 2>/dev/null
}

# Packages whose names depend on the release, or that only stand in for a command.
packages_of_release() {
	local version_id=
	[ -r /etc/os-release ] && version_id=$(. /etc/os-release && echo "${VERSION_ID:-}")
	case $version_id in
	12) echo libclang-rt-14-dev ;;
	*) echo libclang-rt-dev ;;
	esac
	command -v busybox >/dev/null || echo busybox-static
}

packages_missing() {
	local wanted
	mapfile -t wanted < <(printf '%s\n' "${PACKAGES_BUILD[@]}" "${PACKAGES_TEST[@]}" \
		"${PACKAGES_RUN[@]}" && packages_of_release &&
		if [ "$MODE" = long ]; then printf '%s\n' "${PACKAGES_LONG[@]}"; fi)
	comm -23 <(printf '%s\n' "${wanted[@]}" | sort -u) \
		<(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
			sed -n 's/^installed //p' | sort -u)
}

# Servers that tests start by themselves: by their packages they would run, now and at each start
# of the machine, at ports that others want. Those that are here already are left as they are.
SERVERS=(nginx varnish docker-registry ceph-mon ceph-osd radosgw)
POLICY=/usr/sbin/policy-rc.d # what Debian asks before a package starts a service

apt_install() { # package…
	local server new=() policy=
	for server in "${SERVERS[@]}"; do
		[[ " $* " != *" $server "* ]] || new+=("$server")
	done
	if [ ${#new[@]} -gt 0 ] && [ ! -e $POLICY ]; then
		policy=ours
		printf '#!/bin/sh\nexit 101\n' | install -m 755 /dev/stdin $POLICY
	fi
	local status=0
	apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install -y --no-install-recommends \
		"$@" >"$DEPS/install.log" 2>&1 || status=$?
	[ -z "$policy" ] || rm -f $POLICY
	if [ ${#new[@]} -gt 0 ] && [ -d /run/systemd/system ]; then
		systemctl -q disable --now "${new[@]}" >>"$DEPS/install.log" 2>&1 || true
	fi
	return $status
}

install_packages() {
	local missing
	mapfile -t missing < <(packages_missing)
	[ ${#missing[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "these packages are missing, and only root can install them:
  ${missing[*]}
Run \`sudo make deps\`, or install them and try again."
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq -o DPkg::Lock::Timeout=300 update || say "the package lists could not be refreshed; trying with those that are here"
	apt_install "${missing[@]}" || die "apt-get install failed; the end of $DEPS/install.log:
$(tail -n 20 "$DEPS/install.log")"
}

# The mirror that this machine already uses for its main suite.
mirror() {
	apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' |
		awk '$2 !~ /[-\/]/ { print $1; exit }'
}

# fetch_source SUITE PACKAGE: its signatures are checked by apt with the system's Debian keyring.
fetch_source() {
	local site
	site=$(mirror)
	[ -n "$site" ] || die "apt knows no mirror (apt-get indextargets is empty); run apt-get update"
	rm -rf "$WORK"
	[ -r $KEYRING ] || die "$KEYRING is missing; install debian-archive-keyring"
	mkdir -p "$WORK/lists/partial" "$WORK/cache/archives/partial"
	echo "deb-src [signed-by=$KEYRING] $site $1 main" >"$WORK/sources.list"
	# The sandbox user of apt may not enter a private directory; apt checks what it fetched anyway.
	cat >"$WORK/apt.conf" <<-END
		Dir::Etc::SourceList "$WORK/sources.list";
		Dir::Etc::SourceParts "/dev/null";
		Dir::State::Lists "$WORK/lists";
		Dir::Cache "$WORK/cache";
		APT::Sandbox::User "root";
		APT::Get::AllowUnauthenticated "false";
		Acquire::AllowInsecureRepositories "false";
	END
	(
		cd "$WORK"
		export APT_CONFIG=$WORK/apt.conf
		apt-get -qq update
		apt-get -qq source "$2"
	) >"$WORK/fetch.log" 2>&1 || die "the source of $2 could not be fetched:
$(tail -n 20 "$WORK/fetch.log")"
}

build_fuse() {
	say "building libfuse (the system's is older than $FUSE_VERSION_MIN)"
	fetch_source "$FUSE_SUITE" fuse3
	local source
	source=$(find "$WORK" -maxdepth 1 -type d -name 'fuse3-*' -o -maxdepth 1 -type d -name 'fuse-*' | head -n 1)
	{
		meson setup "$WORK/build" "$source" --prefix="$DEPS" --libdir=lib --buildtype=release \
			--default-library=static -Db_staticpic=true -Dexamples=false -Dutils=false \
			-Dtests=false -Denable-io-uring=true -Dinitscriptdir= -Dudevrulesdir="$DEPS/lib/udev" &&
			ninja -C "$WORK/build" install
	} >"$DEPS/fuse.log" 2>&1 || die "libfuse does not build; the end of $DEPS/fuse.log:
$(tail -n 30 "$DEPS/fuse.log")"
	# Found relative to the .pc file, so that the source directory can be moved.
	sed -i 's|^prefix=.*|prefix=${pcfiledir}/../..|' "$DEPS/lib/pkgconfig/fuse3.pc"
	rm -rf "$WORK"
}

mhd_is_recent() {
	PKG_CONFIG_PATH=$DEPS/lib/pkgconfig pkg-config --atleast-version=$MHD_VERSION_MIN libmicrohttpd 2>/dev/null
}

build_mhd() {
	say "building libmicrohttpd (the system's is older than $MHD_VERSION_MIN)"
	fetch_source "$MHD_SUITE" libmicrohttpd
	local source
	source=$(find "$WORK" -maxdepth 1 -type d -name 'libmicrohttpd-*' | head -n 1)
	(
		cd "$source"
		./configure --prefix="$DEPS" --libdir="$DEPS/lib" --disable-shared --enable-static \
			--with-pic --enable-https --with-threads=posix --disable-doc --disable-examples \
			--disable-tools --disable-curl --disable-nls --disable-postprocessor \
			--disable-dauth --disable-bauth --disable-cookie --disable-httpupgrade CFLAGS=-O2 &&
			make -C src/microhttpd -j2 install && make -C src/include install &&
			make install-pkgconfigDATA
	) >"$DEPS/mhd.log" 2>&1 || die "libmicrohttpd does not build; the end of $DEPS/mhd.log:
$(tail -n 30 "$DEPS/mhd.log")"
	sed -i -e 's|^prefix=.*|prefix=${pcfiledir}/../..|' -e 's|^libdir=.*|libdir=${prefix}/lib|' \
		-e 's|^Libs: .*|Libs: -L${libdir} -lmicrohttpd -lgnutls -lpthread|' \
		"$DEPS/lib/pkgconfig/libmicrohttpd.pc"
	rm -rf "$WORK"
}

# build/deps/lib/libzstd-VERSION.a is what the Makefile links.
zstd_is_there() {
	[ -e "$DEPS/lib/libzstd-$ZSTD_VERSION.a" ]
}

build_zstd() {
	say "building libzstd $ZSTD_VERSION (recipes of zstd layers rely on it)"
	fetch_source "$ZSTD_SUITE" libzstd
	local source
	source=$(find "$WORK" -maxdepth 1 -type d -name 'libzstd-*' | head -n 1)
	# The system's static library, even of this version, knows no worker threads.
	make -C "$source/lib" libzstd.a MOREFLAGS="-fPIC -DZSTD_MULTITHREAD" >"$DEPS/zstd.log" 2>&1 ||
		die "libzstd does not build; the end of $DEPS/zstd.log:
$(tail -n 30 "$DEPS/zstd.log")"
	mkdir -p "$DEPS/lib"
	cp "$source/lib/libzstd.a" "$DEPS/lib/libzstd-$ZSTD_VERSION.a"
	rm -rf "$WORK"
}

mkdir -p build "$DEPS"
exec 9>"$DEPS/.lock"
flock 9
if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
	install_packages
	fuse_is_recent || build_fuse
	mhd_is_recent || build_mhd
	zstd_is_there || build_zstd
fi
fuse_is_recent || die "no apt here: install libfuse >= $FUSE_VERSION_MIN and the libraries of README.md by hand, then run make DEPS_CHECK=no"
# make reads this file; that it exists says that the packages are in place.
echo "DEPS_DONE := yes" >build/deps.mk
