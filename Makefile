# lamina: one non-recursive Makefile. `make help` lists the targets.
CONFIG ?= release
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
V ?= 0
B := build/$(CONFIG)
DEPS := build/deps
Q := $(if $(filter 1,$(V)),,@)

CC_release := gcc
CC_debug := gcc
CC_asan := gcc
CC_tsan := gcc
CC_fuzz := clang
ifeq ($(origin CC),default)
CC := $(CC_$(CONFIG))
endif
# What makes a fault harder to use; tests/sys/hardening.py looks whether it is in the programs.
HARDEN := -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection $(if $(filter x86_64,$(shell uname -m)),-fcf-protection)
HARDEN_LD := -Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-code
CFLAGS_release := -O2 -g $(HARDEN)
CFLAGS_debug := -O0 -g3 -DCAS_LOCK_ORDER
CFLAGS_asan := -O1 -g1 -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -DCAS_LOCK_ORDER
CFLAGS_tsan := -O1 -g1 -fsanitize=thread -fno-omit-frame-pointer -DCAS_LOCK_ORDER
CFLAGS_fuzz := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer
ifeq ($(CFLAGS_$(CONFIG)),)
$(error CONFIG=$(CONFIG): use release, debug, asan, tsan or fuzz)
endif
WARN := -Wall -Wextra -Wshadow -Wconversion -Wvla -Wstrict-prototypes -Wmissing-prototypes \
        -Wno-unknown-warning-option
WERROR ?= $(if $(CI),-Werror,)

.DEFAULT_GOAL := all

# Packages and libfuse come first: make makes this file when it is not there, and then
# reads everything again. DEPS_CHECK=no leaves it all to you.
ifneq ($(filter-out help clean deps tidy check-layers,$(or $(MAKECMDGOALS),all)),)
ifneq ($(DEPS_CHECK),no)
include build/deps.mk
build/deps.mk: tools/deps.sh
	@tools/deps.sh
endif
endif

FOLDERS := cas cas/deflate tiering fusefs registry tools
PKGS_BASE := libzstd liblz4 zlib libcrypto jansson libmicrohttpd gnutls libcurl libxxhash libisal inih expat
ZSTD_STATIC := $(wildcard $(DEPS)/lib/libzstd-*.a)
FUSE_PC := $(wildcard $(DEPS)/lib/pkgconfig/fuse3.pc)
PKG := PKG_CONFIG_PATH=$(DEPS)/lib/pkgconfig pkg-config
PKG_CFLAGS := $(shell $(PKG) --cflags $(PKGS_BASE) fuse3 2>/dev/null)
PKG_LIBS := $(ZSTD_STATIC) $(filter-out $(if $(ZSTD_STATIC),-lzstd),$(shell $(PKG) --libs $(PKGS_BASE) 2>/dev/null)) \
            $(if $(FUSE_PC),$(DEPS)/lib/libfuse3.a -luring -lnuma -ldl,$(shell $(PKG) --libs fuse3 2>/dev/null)) \
            -lrocksdb -lcrypt -lpthread
DECODER_LIBS := $(or $(ZSTD_STATIC),-lzstd) -l:libxxhash.a -lisal
CPPFLAGS += -D_GNU_SOURCE -I. -include cas/banned.h -DFUSE_USE_VERSION=318
ALL_CFLAGS = -std=gnu17 $(CFLAGS_$(CONFIG)) $(WARN) $(WERROR) -fvisibility=hidden -fPIE $(PKG_CFLAGS) $(CFLAGS)
ALL_LDFLAGS = -pie $(filter -fsanitize=%,$(CFLAGS_$(CONFIG))) $(HARDEN_LD) $(LDFLAGS)

# Hundreds of test programs: linked by the faster linker, where it is.
TEST_LD := $(if $(shell command -v ld.lld),-fuse-ld=lld)

comma := ,
LIB_FOLDERS := cas cas/deflate tiering fusefs registry
LIB_SRC := $(sort $(foreach d,$(LIB_FOLDERS),$(wildcard $(d)/*.c)))
TOOL_SRC := $(sort $(wildcard tools/*.c))
LIB_OBJ := $(LIB_SRC:%.c=$(B)/%.o)
TOOL_OBJ := $(TOOL_SRC:%.c=$(B)/%.o) $(B)/tools/enter_blob.o $(B)/tools/decoder_blob.o
# The program that decodes a layer, confined: no more of cas than it needs.
DECODER_SRC := $(sort $(wildcard tools/decoder/*.c)) $(patsubst %,cas/%.c,base buf decodeframe decoding decompress \
               entry err extract gzipheader listing map path tar tarblock tarpax xattr)
DECODER_OBJ := $(DECODER_SRC:%.c=$(B)/decoder_obj/%.o)
TEST_SUPPORT_SRC := $(sort $(filter-out %/replay.c %/sched.c,$(wildcard tests/support/*.c)))
TEST_SUPPORT_OBJ := $(TEST_SUPPORT_SRC:%.c=$(B)/%.o)
UNIT_SRC := $(sort $(wildcard tests/unit/*_test.c tests/prop/*_test.c))
UNIT := $(UNIT_SRC:%.c=$(B)/%)
CRASH_SRC := $(sort $(wildcard tests/crash/*.c))
CRASH := $(CRASH_SRC:%.c=$(B)/%)
CRASH_PARTS := $(patsubst %.c,$(B)/%.o,$(sort $(wildcard tests/support/below/*.c tests/crash/parts/*.c)))
MODEL := $(patsubst %.c,$(B)/%,$(sort $(wildcard tests/model/*.c)))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/*.c))
FUZZ := $(FUZZ_SRC:%.c=$(B)/%)
LIB := $(B)/liblamina.a
TOOL_LIB := $(B)/libtools.a

.PHONY: deps
deps: ## Install what building, testing and running need (Debian, root)
	@tools/deps.sh

.PHONY: all
all: $(B)/lamina ## Build the program: build/CONFIG/lamina

# Objects are made again when the compiler or its flags change.
FLAGS_NOW := $(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(PKG_LIBS)
.PHONY: FORCE
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' >$@

$(B)/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	@$(if $(filter 1,$(V)),,echo "CC $<")
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(LIB_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

# Everything of tools but main(), for tests.
$(TOOL_LIB): $(filter-out %/main.o,$(TOOL_OBJ))
	@rm -f $@
	$(Q)ar rcs $@ $^

# The first process of a sandbox: static, so that it runs over any image; carried in the program.
$(B)/enter: tools/enter/enter.c
	@mkdir -p $(@D)
	@$(if $(filter 1,$(V)),,echo "LD $@")
	$(Q)gcc -std=gnu17 -Os -static -s -D_GNU_SOURCE $(WARN) $(WERROR) -o $@ $<

$(B)/tools/enter_blob.o: tools/enter_blob.S $(B)/enter
	@mkdir -p $(@D)
	$(Q)gcc -c -DENTER_PROGRAM='"$(B)/enter"' -o $@ $<

# Carried in the program as well. Its flags are those of a release whatever CONFIG says: sanitizers
# need what it may not do.
$(B)/decoder_obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(Q)gcc $(CPPFLAGS) -std=gnu17 $(CFLAGS_release) $(WARN) $(WERROR) -fvisibility=hidden -fPIE -MMD -MP -c $< -o $@

$(B)/decoder: $(DECODER_OBJ)
	@$(if $(filter 1,$(V)),,echo "LD $@")
	$(Q)gcc -pie -s -Wl,--as-needed $(HARDEN_LD) -o $@ $(DECODER_OBJ) $(DECODER_LIBS) -lseccomp

# Confined in the same way, and up to no good: for tests/unit/decoder_test.c.
EVIL_OBJ := $(B)/decoder_obj/tests/evil/evil_decoder.o
$(B)/evil_decoder: $(EVIL_OBJ) $(DECODER_OBJ)
	$(Q)gcc -pie -s -Wl,--as-needed $(HARDEN_LD) -o $@ $(EVIL_OBJ) $(filter-out %/decoder_main.o,$(DECODER_OBJ)) $(DECODER_LIBS) -lseccomp
$(B)/tests/unit/decoder_test: | $(B)/evil_decoder

$(B)/tools/decoder_blob.o: tools/decoder_blob.S $(B)/decoder
	@mkdir -p $(@D)
	$(Q)gcc -c -DDECODER_PROGRAM='"$(B)/decoder"' -o $@ $<

$(B)/lamina: $(TOOL_OBJ) $(LIB)
	@$(if $(filter 1,$(V)),,echo "LD $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(TOOL_OBJ) $(LIB) $(PKG_LIBS)

# Their own open(), write() … are for libraries as well; fortified headers have functions of these names.
$(CRASH): TEST_EXTRA = $(CRASH_PARTS) -rdynamic
$(CRASH): $(CRASH_PARTS)
$(B)/tests/support/below/calls.o: ALL_CFLAGS += -U_FORTIFY_SOURCE

$(UNIT) $(CRASH) $(MODEL): $(B)/%: $(B)/%.o $(TEST_SUPPORT_OBJ) $(TOOL_LIB) $(LIB)
	@$(if $(filter 1,$(V)),,echo "LD $@")
	$(Q)$(CC) $(ALL_LDFLAGS) $(TEST_LD) -o $@ $< $(TEST_EXTRA) $(TEST_SUPPORT_OBJ) $(TOOL_LIB) $(LIB) -lcmocka $(PKG_LIBS)

# Programs whose threads are scheduled by the test (tests/support/sched.h).
SCHED_WRAP := $(addprefix -Wl$(comma)--wrap=,$(addprefix pthread_,create join detach mutex_lock mutex_unlock \
                cond_wait cond_timedwait cond_signal cond_broadcast) cas_rwlock_read cas_rwlock_write cas_rwlock_unlock \
                clock_gettime time nanosleep clock_nanosleep getrandom getentropy \
                rocksdb_write rocksdb_get_pinned_cf rocksdb_create_iterator_cf)
SCHED := $(B)/tests/unit/sched_test $(B)/tests/prop/schedules_test
$(SCHED): $(B)/tests/support/sched.o
$(SCHED): TEST_EXTRA = $(B)/tests/support/sched.o $(SCHED_WRAP)

# A fuzz target is its own program under CONFIG=fuzz; elsewhere it replays a corpus.
ifeq ($(CONFIG),fuzz)
$(FUZZ): $(B)/%: $(B)/%.o $(TOOL_LIB) $(LIB)
	$(Q)$(CC) $(ALL_LDFLAGS) $(TEST_LD) -fsanitize=fuzzer -o $@ $< $(TOOL_LIB) $(LIB) $(PKG_LIBS)
else
$(FUZZ): $(B)/%: $(B)/%.o $(B)/tests/support/replay.o $(TOOL_LIB) $(LIB)
	$(Q)$(CC) $(ALL_LDFLAGS) $(TEST_LD) -o $@ $< $(B)/tests/support/replay.o $(TOOL_LIB) $(LIB) $(PKG_LIBS)
endif

-include $(shell find $(B) -name '*.d' 2>/dev/null)

$(B)/bench/access $(B)/bench/decode $(B)/bench/mix $(B)/bench/collect: %: %.o $(LIB)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(PKG_LIBS)

$(B)/bench/tiersim: $(patsubst %,$(B)/bench/%.o,tiersim tiertrace tiergen tierbound) $(LIB)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(PKG_LIBS) -lm

.PHONY: unit
unit: $(UNIT) ## Build and run the unit and property tests of this CONFIG
	@tests/run.sh unit 300 $(UNIT)

# Everything that tests/run-all.sh runs of one CONFIG.
.PHONY: programs
programs: $(if $(filter release,$(CONFIG)),$(B)/lamina $(CRASH) $(MODEL)) $(UNIT) $(if $(filter asan,$(CONFIG)),$(FUZZ))

.PHONY: test
test: check-layers check-headers ## Build, and run all tests that fit in 15 minutes
	@$(MAKE) --no-print-directory -j$(JOBS) CONFIG=release programs
	@$(MAKE) --no-print-directory -j$(JOBS) CONFIG=asan programs
	@tests/run-all.sh

.PHONY: check-long
check-long: $(B)/lamina $(CRASH) $(MODEL) $(SCHED) $(B)/tests/unit/s3_test ## Tests that take longer (LAMINA_CORPUS=LAYOUT: with real images)
	@tools/deps.sh long
	@tests/run.sh long 3600 $(sort $(shell find tests/long -maxdepth 1 -type f -executable))

# What makes threads, or is made for them; not what is scheduled by the test, one thread at a time.
TSAN_SRC := $(filter-out $(SCHED:$(B)/%=%.c),$(shell grep -lE 'pthread_create|teststore|farstore|fusebox|httpclient|reg_http|cas_(pool|store_open|spool|hashpipe)' $(UNIT_SRC)))
.PHONY: check-tsan
check-tsan: ## Unit and property tests with threads, under ThreadSanitizer (half an hour)
	@$(MAKE) --no-print-directory -j$(JOBS) CONFIG=tsan tsan-programs
	@tests/run.sh tsan 900 $(TSAN_SRC:%.c=build/tsan/%)
.PHONY: tsan-programs
tsan-programs: $(TSAN_SRC:%.c=$(B)/%)

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZ_SECONDS, from its corpus
	@$(MAKE) --no-print-directory CONFIG=fuzz fuzz-programs
	@tests/run-fuzz.sh $(FUZZ_SECONDS) $(FUZZ_SRC:%.c=build/fuzz/%)
.PHONY: fuzz-programs
fuzz-programs: $(FUZZ)

.PHONY: bench
bench: $(B)/lamina $(B)/bench/access $(B)/bench/decode $(B)/bench/mix ## Benchmarks beside the peers (CORPUS=LAYOUT)
	@bench/run.sh $(CORPUS)

.PHONY: bench-registry
bench-registry: $(B)/lamina ## The registry beside nginx and docker-registry (FULL=--full)
	@bench/registry.py $(FULL) --out build/bench-registry.json

.PHONY: bench-tiersim
bench-tiersim: $(B)/bench/tiersim ## Policies of caches over traces (TRACES=FILES: recorded ones)
	@bench/tiersim.py --program $< $(TRACES)

.PHONY: run
run: $(B)/lamina ## A store in ./demo: registry, image, mount and sandbox, until Ctrl-C
	@tools/demo.sh $(B)/lamina

.PHONY: check-headers
check-headers: ## Every header compiles alone
	@for h in $(wildcard $(addsuffix /*.h,$(FOLDERS) tools/decoder)); do \
	  echo "#include \"$$h\"" | $(CC) $(CPPFLAGS) $(ALL_CFLAGS) -x c -fsyntax-only - || { echo "header: $$h"; exit 1; }; done

.PHONY: check-layers
check-layers: ## Nobody includes what is above or beside it (spec/README.md)
	@tests/check-layers.sh
	@tests/check-locks.sh

C_FILES := $(sort $(foreach d,$(FOLDERS) tools/decoder tools/enter tests/unit tests/prop tests/crash tests/crash/parts tests/model tests/evil tests/fuzz tests/support tests/support/below bench,\
             $(wildcard $(d)/*.c $(d)/*.h)))
.PHONY: tidy
tidy: ## Formatting and static analysis (.clang-format, .clang-tidy)
	clang-format --dry-run -Werror $(C_FILES)
	clang-tidy --quiet $(LIB_SRC) $(TOOL_SRC) -- -std=gnu17 $(CPPFLAGS) $(PKG_CFLAGS)

MAN_NAMES := $(filter-out man,$(patsubst tools/cmd_%.c,%,$(sort $(wildcard tools/cmd_*.c)))) umount mounts
MAN := $(MAN_NAMES:%=$(B)/man/lamina-%.1)
$(MAN): $(B)/man/lamina-%.1: $(B)/lamina
	@mkdir -p $(@D)
	$(Q)$(B)/lamina man $* >$@

.PHONY: install
install: $(B)/lamina $(MAN) ## Install into DESTDIR and PREFIX (/usr/local)
	install -D -m 755 $(B)/lamina $(DESTDIR)$(PREFIX)/bin/lamina
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 tools/man/lamina.1 $(MAN) $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/doc/lamina
	install -m 644 tools/conf/lamina.conf tools/conf/nginx-cache.conf tools/conf/varnish.vcl $(DESTDIR)$(PREFIX)/share/doc/lamina
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	for u in tools/*.service; do sed 's#@PREFIX@#$(PREFIX)#' $$u >$(DESTDIR)$(PREFIX)/lib/systemd/system/$${u##*/}; done

.PHONY: help
help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: clean
clean: ## Remove build/ but for the libraries of make deps
	rm -rf build/release build/debug build/asan build/tsan build/fuzz
