# Culex: one non-recursive makefile. Objects in build/$(MODE); MODE = release, debug, asan, tsan.
MODE    ?= release
B       := build/$(MODE)
CC      ?= gcc
PKGS    := libevent libevent_pthreads jansson libzstd liblz4 zlib
VERSION := 0.2.0

WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
        -Wformat=2 -Wundef -Wno-unused-parameter
CPPFLAGS += -I. -I$(B)/gen -D_GNU_SOURCE -DCULEX_VERSION='"$(VERSION)"' $(shell pkg-config --cflags $(PKGS))
CFLAGS_release := -O2 -g
CFLAGS_debug   := -O0 -g3
CFLAGS_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
CFLAGS_tsan    := -O1 -g -fsanitize=thread
CFLAGS  += -std=c11 $(WARN) $(CFLAGS_$(MODE)) $(if $(WERROR),-Werror) -fvisibility=hidden -fPIC -fno-plt -pthread
# Ours is the plugin's alone (below); a builder's own is left alone.
THEIR_LTO := $(filter -flto%,$(CC) $(CFLAGS) $(LDFLAGS))
NO_LTO  := $(if $(THEIR_LTO),,-fno-lto)
LDFLAGS += $(filter -fsanitize=%,$(CFLAGS_$(MODE))) -pthread $(NO_LTO)
LDLIBS_STORE := -lrocksdb -lisal -ljansson -lzstd -llz4 -lsnappy -lz
LDLIBS_SERVER = $(shell pkg-config --libs libevent libevent_pthreads libpcre2-8) -lsystemd

SHARED_SRC := $(wildcard shared/*/*.c)
PLUGIN_SRC := $(wildcard plugins/capture/*.c)
LINK_SRC   := $(wildcard plugins/link/*.c)
WRITER_SRC := $(wildcard plugins/writer/*.c)
SERVER_SRC := $(wildcard kafka-server/protocol/*.c kafka-server/net/*.c kafka-server/broker/*.c kafka-server/api/*.c)
CLI_SRC    := $(wildcard kafka-server/cli/*.c)
MAIN_SRC   := kafka-server/server.c kafka-server/own_state.c kafka-server/main.c
GEN_SRC    := $(B)/gen/kafka_messages.c

obj = $(patsubst %.c,$(B)/%.o,$(patsubst $(B)/%,%,$(1)))
SHARED_OBJ := $(call obj,$(SHARED_SRC))
SERVER_OBJ := $(call obj,$(SERVER_SRC)) $(B)/gen/kafka_messages.o

all: $(B)/culex_capture.so $(B)/culex-writer $(B)/culex-server $(B)/culex

$(B)/libculex.a: $(SHARED_OBJ)
	@rm -f $@ && ar rcs $@ $^
$(B)/libserver.a: $(SERVER_OBJ)
	@rm -f $@ && ar rcs $@ $^

# What the broker runs for each message lies in seven files: GCC makes one function of it when the plugin is linked.
LTO_release := $(if $(findstring Free Software,$(shell $(CC) --version)),$(if $(THEIR_LTO),,-flto=auto))
$(call obj,$(PLUGIN_SRC) $(LINK_SRC) $(wildcard shared/base/*.c shared/mqtt/*.c)): \
    CFLAGS += $(LTO_$(MODE)) $(if $(LTO_$(MODE)),-ffat-lto-objects)
# The plugin links libmosquitto, because upstream brokers export only part of the API; the writer runs beside it.
$(B)/culex_capture.so: $(call obj,$(PLUGIN_SRC) $(LINK_SRC)) $(B)/libculex.a
	$(CC) -shared $(filter-out $(NO_LTO),$(LDFLAGS)) $(if $(LTO_$(MODE)),-O2 $(LTO_$(MODE))) -Wl,--exclude-libs,ALL -o $@ $(call obj,$(PLUGIN_SRC) $(LINK_SRC)) $(B)/libculex.a -lisal -ljansson -lmosquitto
$(B)/culex-writer: $(call obj,$(WRITER_SRC) $(LINK_SRC)) $(B)/libculex.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS_STORE)
$(B)/culex-server: $(call obj,$(MAIN_SRC)) $(B)/libserver.a $(B)/libculex.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS_STORE) $(LDLIBS_SERVER)
$(B)/culex: $(call obj,$(CLI_SRC)) $(B)/libculex.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS_STORE) -lrdkafka -lmosquitto

# --- the protocol's tables -------------------------------------------------------------------------
$(B)/schemac: kafka-server/protocol/gen/schemac.c
	@mkdir -p $(@D)
	$(CC) -std=c11 $(WARN) -O1 -g -o $@ $<
$(B)/gen/kafka_messages.c: kafka-server/protocol/kafka.schema $(B)/schemac
	@mkdir -p $(@D)
	$(B)/schemac kafka-server/protocol/kafka.schema $(B)/gen/kafka_messages.h $(B)/gen/kafka_messages.c
$(B)/gen/kafka_messages.o: $(B)/gen/kafka_messages.c
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<
$(B)/gen/kafka_messages.h: $(B)/gen/kafka_messages.c ;
$(call obj,$(SERVER_SRC) $(MAIN_SRC) $(wildcard tests/codec/*.c)): | $(B)/gen/kafka_messages.h

# Tests of the codec share a maker of random messages, and need no more than the codec.
CODEC_O    := $(call obj,$(wildcard kafka-server/protocol/*.c shared/base/*.c)) \
              $(B)/gen/kafka_messages.o $(B)/tests/codec/randmsg.o
CODEC_TEST := $(patsubst tests/%.c,$(B)/%,$(wildcard tests/unit/test_codec*.c))
$(CODEC_TEST): $(B)/unit/%: tests/unit/%.c $(CODEC_O)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(CODEC_O) -lisal -lcmocka

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

# What says its version is made anew with this file, where the version is.
$(call obj,kafka-server/server.c kafka-server/main.c kafka-server/cli/main.c plugins/link/link.c \
           plugins/capture/plugin.c plugins/capture/stats.c): Makefile

# --- the codec beside Kafka's own: CODEC_N random messages per API, version and kind, both ways ---------
CODEC_N    ?= 300
CODEC_SEED ?= 1
CODEC_LIB  := $(B)/codec/lib
ORACLE      = java -cp '$(B)/codec:$(CODEC_LIB)/*' CodecOracle
$(B)/codec_peer: $(B)/tests/codec/codec_peer.o $(CODEC_O)
	$(CC) $(LDFLAGS) -o $@ $^ -lisal
# Offline first: once in the local repository, the jar needs no network.
$(CODEC_LIB)/.done: tests/codec/java/pom.xml
	@mkdir -p $(@D)
	set -- -q -B -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D)); \
	mvn -o "$$@" >/dev/null 2>&1 || mvn "$$@"
	@touch $@
$(B)/codec/CodecOracle.class: tests/codec/java/CodecOracle.java $(CODEC_LIB)/.done
	javac -encoding UTF-8 -Xlint:all -Werror -cp '$(CODEC_LIB)/*' -d $(@D) $<
codec-test: $(B)/schemac $(B)/codec_peer $(B)/codec/CodecOracle.class
	tests/codec/schemac_errors.sh $(B)/schemac
	$(B)/codec_peer schema > $(B)/codec/tables.txt
	python3 tests/codec/compare_schema.py $(CODEC_LIB)/kafka-clients-*.jar $(B)/codec/tables.txt
	$(ORACLE) write $(CODEC_N) $(CODEC_SEED) $(B)/codec/kafka.bin $$($(B)/codec_peer keys)
	$(B)/codec_peer check $(B)/codec/kafka.bin
	$(B)/codec_peer write $(CODEC_N) $(CODEC_SEED) $(B)/codec/culex.bin
	$(ORACLE) check $(B)/codec/culex.bin
	@echo "4 passed"
	$(MAKE) MODE=asan B=build/asan codec-unit
codec-oracle: $(B)/codec/CodecOracle.class
codec-unit: $(CODEC_TEST)
	@set -e; for t in $(CODEC_TEST); do $$t; done
codec-golden: $(B)/codec_peer $(B)/codec/CodecOracle.class
	$(ORACLE) sample 1 $(B)/codec/golden.bin $$($(B)/codec_peer keys)
	$(B)/codec_peer golden $(B)/codec/golden.bin tests/golden
$(B)/bench_codec: $(B)/tests/bench/bench_codec.o $(CODEC_O)
	$(CC) $(LDFLAGS) -o $@ $^ -lisal
$(B)/tests/bench/bench_codec.o: | $(B)/gen/kafka_messages.h
codec-bench: $(B)/bench_codec
	$(B)/bench_codec
.PHONY: codec-test codec-oracle codec-unit codec-golden codec-bench

# --- the same requests to Apache Kafka and to Culex: make kafka-compare; kafka-recorded needs no Kafka ------
COMPARE := build/compare
COMPARE_SRC := $(wildcard tests/compare/java/*.java)
$(COMPARE)/lib/.done: tests/compare/java/pom.xml
	@mkdir -p $(@D)
	set -- -q -B -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D)); \
	mvn -o "$$@" >/dev/null 2>&1 || mvn "$$@"
	@touch $@
$(COMPARE)/classes/.done: $(COMPARE_SRC) $(COMPARE)/lib/.done
	javac -encoding UTF-8 -Xlint:all,-classfile,-processing,-path -Werror -cp '$(COMPARE)/lib/*' -d $(@D) $(COMPARE_SRC)
	@touch $@
kafka-compare-run: $(COMPARE)/classes/.done $(B)/culex-server
	BUILD=$(B) tests/compare/run
kafka-recorded: $(COMPARE)/classes/.done $(B)/culex-server
	BUILD=$(B) tests/compare/run recorded
.PHONY: kafka-compare-run kafka-recorded

# --- the assignors beside Kafka's own: groups that live ASSIGNOR_N lives; the jar is one of tests/deps.sh's ---
ASSIGNOR_N    ?= 2000
ASSIGNOR_SEED ?= 1
ASSIGNOR_CP   := build/clients/java/lib/*
$(B)/assignor_peer: $(B)/tests/assignor/assignor_peer.o $(B)/libserver.a $(B)/libculex.a
	$(CC) $(LDFLAGS) -o $@ $^
$(B)/assignor/AssignorOracle.class: tests/assignor/AssignorOracle.java
	@mkdir -p $(@D)
	javac -encoding UTF-8 -cp '$(ASSIGNOR_CP)' -d $(@D) $<
assignor-test: $(B)/assignor_peer $(B)/assignor/AssignorOracle.class
	$(B)/assignor_peer $(ASSIGNOR_N) $(ASSIGNOR_SEED) > $(B)/assignor/groups.txt
	java -cp '$(B)/assignor:$(ASSIGNOR_CP)' AssignorOracle < $(B)/assignor/groups.txt
	@echo "1 passed"
.PHONY: assignor-test

# --- Streams, Connect, MirrorMaker 2 and Flink, killed and started again: make ecosystem [ECOSYSTEM='--server kafka streams'];
# --short of some is a step of make test. Flink brings a Kafka client of its own, so its class path is one of its own.
ECOSYSTEM ?=
ECO := build/ecosystem
$(ECO)/lib/.done: tests/ecosystem/pom.xml
$(ECO)/flink-lib/.done: tests/ecosystem/flink/pom.xml
$(ECO)/lib/.done $(ECO)/flink-lib/.done:
	@rm -rf $(@D) && mkdir -p $(@D)
	set -- -q -B -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D)); \
	mvn -o "$$@" >/dev/null 2>&1 || mvn "$$@"
	@touch $@
$(ECO)/classes/.done: tests/ecosystem/streams/Streams.java $(ECO)/lib/.done
$(ECO)/flink-classes/.done: tests/ecosystem/flink/Job.java $(ECO)/flink-lib/.done
$(ECO)/classes/.done $(ECO)/flink-classes/.done:
	javac -encoding UTF-8 -cp '$(patsubst %/.done,%,$(word 2,$^))/*' -d $(@D) $<
	@touch $@
ecosystem-deps: $(ECO)/classes/.done
ecosystem-run: $(ECO)/classes/.done $(ECO)/flink-classes/.done all
	PYTHONDONTWRITEBYTECODE=1 BUILD=$(B) build/venv/bin/python tests/ecosystem/run.py $(ECOSYSTEM)
ecosystem-short: $(ECO)/classes/.done all
	PYTHONDONTWRITEBYTECODE=1 BUILD=$(B) build/venv/bin/python tests/ecosystem/run.py --short connect streams
.PHONY: ecosystem-run ecosystem-deps ecosystem-short

# --- fuzzing: make fuzz [FUZZ_SECONDS=20] [FUZZ_SEED=0, which is another one each time]; clang, in a build of its own -------------------------
FUZZ_SECONDS ?= 20
FUZZ_SEED    ?= 0
FUZZ_FLAGS   := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined
fuzz:
	@packaging/install-packages build fuzz
	$(MAKE) MODE=fuzz B=build/fuzz CC=clang CFLAGS_fuzz='$(FUZZ_FLAGS) -fsanitize=fuzzer-no-link' fuzz-run
$(B)/fuzz_codec: tests/fuzz/fuzz_codec.c $(CODEC_O)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $< $(filter %.o,$^) -lisal
fuzz-run: $(B)/fuzz_codec $(B)/codec_peer
	@mkdir -p $(B)/corpus
	$(B)/codec_peer write 2 $(CODEC_SEED) $(B)/corpus.bin && $(B)/codec_peer corpus $(B)/corpus.bin $(B)/corpus
	$(B)/fuzz_codec -seed=$(FUZZ_SEED) -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -rss_limit_mb=1024 -print_final_stats=1 \
	    -artifact_prefix=$(B)/ $(B)/corpus
.PHONY: fuzz fuzz-run

RECORD_O := $(call obj,$(wildcard shared/record/*.c shared/base/*.c))
$(B)/fuzz_record $(B)/fuzz_validate: $(B)/fuzz_%: tests/fuzz/fuzz_%.c $(RECORD_O)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $< $(filter %.o,$^) \
	    -lisal -lzstd -llz4 -lsnappy -lz
fuzz-record: $(B)/fuzz_record
	tests/fuzz/record_corpus.py $(B)/record_golden
	@mkdir -p $(B)/record_corpus
	$(B)/fuzz_record -seed=$(FUZZ_SEED) -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=512 -print_final_stats=1 \
	    -artifact_prefix=$(B)/ $(B)/record_corpus $(B)/record_golden
fuzz-validate: $(B)/fuzz_validate
	tests/fuzz/record_corpus.py $(B)/validate_golden 0000
	@mkdir -p $(B)/validate_corpus
	$(B)/fuzz_validate -seed=$(FUZZ_SEED) -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -rss_limit_mb=512 -print_final_stats=1 \
	    -artifact_prefix=$(B)/ $(B)/validate_corpus $(B)/validate_golden
fuzz-run: fuzz-record fuzz-validate
.PHONY: fuzz-record fuzz-validate

# --- record batches beside Kafka's own classes and its broker's LogValidator: RECORD_N random cases -----
RECORD_N      ?= 20000
RECORD_SEED   ?= 1
RECORD_ORACLE  = java -cp '$(B)/codec:$(CODEC_LIB)/*' RecordOracle
$(B)/record_peer: $(B)/tests/codec/record_peer.o $(RECORD_O)
	$(CC) $(LDFLAGS) -o $@ $^ -lisal -lzstd -llz4 -lsnappy -lz
$(B)/codec/RecordOracle.class: tests/codec/java/RecordOracle.java $(CODEC_LIB)/.done
	javac -encoding UTF-8 -Xlint:all -Werror -cp '$(CODEC_LIB)/*' -d $(@D) $<
record-test-run: $(B)/record_peer $(B)/codec/RecordOracle.class
	$(RECORD_ORACLE) cases $(RECORD_N) $(RECORD_SEED) $(B)/codec/record.bin
	$(B)/record_peer $(B)/codec/record.bin $(B)/codec/record_pairs.bin
	$(RECORD_ORACLE) same $(B)/codec/record_pairs.bin
	@echo "2 passed"
$(B)/bench_record: $(B)/tests/bench/bench_record.o $(RECORD_O)
	$(CC) $(LDFLAGS) -o $@ $^ -lisal -lzstd -llz4 -lsnappy -lz
record-bench: $(B)/bench_record
	$(B)/bench_record
.PHONY: record-test-run record-bench

# --- unit tests: tests/unit/test_X.c, each a program of its own --------------------------------------
UNIT_SRC := $(wildcard tests/unit/test_*.c)
UNIT_BIN := $(patsubst tests/unit/%.c,$(B)/unit/%,$(UNIT_SRC))
$(B)/unit/%: tests/unit/%.c $(B)/libserver.a $(B)/libculex.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(filter %.o,$^) $(B)/libserver.a $(B)/libculex.a \
	    $(LDLIBS_STORE) $(LDLIBS_SERVER) -lcmocka
$(B)/unit/test_link $(B)/unit/test_bind: $(call obj,$(LINK_SRC) $(filter-out %/main.c,$(WRITER_SRC)))
$(B)/unit/test_own_state: $(call obj,kafka-server/own_state.c)
$(B)/unit/test_own_state: LDFLAGS += -Wl,--wrap=transactions_open
# MODE=tsan: RocksDB is not instrumented, so its own locks are not seen; and tests fork to kill a writer.
unit: export TSAN_OPTIONS ?= ignore_noninstrumented_modules=1 die_after_fork=0
unit-built: $(UNIT_BIN)
unit: unit-built
	@set -e; for t in $(UNIT_BIN); do echo "== $$t"; $$t; done

# --- simulations: seeded lives of the coordinators; SIM_SEEDS=… for a long run, SIM_FIRST=… to begin elsewhere ---
SIM_SEEDS ?= 2000
SIM_TXN_SEEDS ?= 300
SIM_EACH_SEEDS ?= 12
SIM_FIRST ?= 1
# Lives in which members would hear what a commit takes back that has failed and landed all the same.
SIM_DOUBT := 3184 4158 6839 7999
$(B)/sim/%: tests/sim/%.c $(B)/libserver.a $(B)/libculex.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(B)/libserver.a $(B)/libculex.a $(LDLIBS_STORE) $(LDLIBS_SERVER)
SIM_BIN := $(addprefix $(B)/sim/sim_,groups consumer_groups txn)
sim-built: $(SIM_BIN)
sim: sim-built
	$(B)/sim/sim_groups $(SIM_SEEDS) $(SIM_FIRST)
	$(B)/sim/sim_consumer_groups $(SIM_SEEDS) $(SIM_FIRST)
	$(B)/sim/sim_txn $(SIM_TXN_SEEDS) $(SIM_FIRST)
	@set -e; for s in $(SIM_BIN); do $$s each $(SIM_EACH_SEEDS) $(SIM_FIRST); done
	@set -e; for s in $(SIM_DOUBT); do $(B)/sim/sim_consumer_groups each 1 $$s; done
# Ten thousand lives of each, and ten thousand short ones in which each step is the last before a death: some 45
# minutes of one processor.
sim-long:
	$(MAKE) sim SIM_SEEDS=10000 SIM_TXN_SEEDS=10000 SIM_EACH_SEEDS=10000
.PHONY: sim sim-built sim-long

# --- torture: programs that kill, fill and spoil; each has a short form without arguments ------------------
TORTURE_BIN := $(patsubst tests/torture/%.c,$(B)/torture/%,$(wildcard tests/torture/*.c))
$(B)/torture/%: tests/torture/%.c $(B)/libserver.a $(B)/libculex.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(B)/libserver.a $(B)/libculex.a $(LDLIBS_STORE) $(LDLIBS_SERVER)
torture: $(TORTURE_BIN)
	@set -e; for t in $(TORTURE_BIN); do echo "== $$t"; $$t; done
.PHONY: torture

# --- torture, too: every allocation and system call fails once; not for sanitizers, which have a malloc of theirs ---
# The writer is a thread of the test there, so that its calls fail as well.
FAULTS_O := $(call obj,$(wildcard tests/faults/*.c) $(LINK_SRC) \
            $(filter-out %/plugin.c %/spawn.c %/main.c,$(PLUGIN_SRC) $(WRITER_SRC)))
$(B)/faults: $(FAULTS_O) $(B)/libculex.a
	$(CC) $(LDFLAGS) -Wl,--wrap=log_set_sink -o $@ $^ $(LDLIBS_STORE)
faults: $(B)/faults
	$(B)/faults
torture: faults
.PHONY: faults

# --- make check: what must be clean before every commit ---------------------------------------------------
check: check-tree check-docs unit sim
check-tree:
	@python3 tests/check/layers.py
	@python3 tests/check/style.py
.PHONY: check check-tree

# --- configuration's documentation ------------------------------------------------------------------------
OPTDOC_O := $(call obj,kafka-server/broker/topic_config.c)
$(B)/optdoc: tests/tools/optdoc.c $(OPTDOC_O) $(B)/libculex.a
	$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(OPTDOC_O) $(B)/libculex.a $(LDLIBS_STORE)
APIDOC_O := $(call obj,$(filter-out %/main.c,$(MAIN_SRC)))
$(B)/apidoc: tests/tools/apidoc.c $(APIDOC_O) $(B)/libserver.a $(B)/libculex.a
	$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(APIDOC_O) $(B)/libserver.a $(B)/libculex.a $(LDLIBS_STORE) $(LDLIBS_SERVER)
docs: $(B)/optdoc $(B)/apidoc
	@mkdir -p docs
	$(B)/optdoc > docs/configuration.md
	$(B)/apidoc > docs/apis.md
check-docs: $(B)/optdoc $(B)/apidoc
	@$(B)/optdoc | cmp -s - docs/configuration.md || { echo 'docs/configuration.md is old: run make docs'; exit 1; }
	@$(B)/apidoc | cmp -s - docs/apis.md || { echo 'docs/apis.md is old: run make docs'; exit 1; }
.PHONY: docs check-docs

# --- what a person touches first: demo, install, images, Debian 13 --------------------------------------
PREFIX     ?= /usr
SYSCONFDIR ?= /etc
BINDIR     ?= $(PREFIX)/bin
LIBDIR     ?= $(PREFIX)/lib/$(shell $(CC) -print-multiarch 2>/dev/null)
DOCDIR     ?= $(PREFIX)/share/doc/culex
UNITDIR    ?= $(PREFIX)/lib/systemd/system
fill = sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@DOCDIR@|$(DOCDIR)|g' -e 's|@SYSCONFDIR@|$(SYSCONFDIR)|g'

$(B)/demo-device: packaging/demo/device.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE $(CFLAGS) $(LDFLAGS) -o $@ $< -lmosquitto

demo: export BUILD_DIR := $(B)
demo: # MQTT_PORT, KAFKA_PORT and DATA come through the environment: there may be quotes and blanks in them
	@packaging/demo/run

install uninstall: export DESTDIR := $(DESTDIR)
install: all
	install -d "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(LIBDIR)" "$(DESTDIR)$(DOCDIR)/examples" \
	    "$(DESTDIR)$(DOCDIR)/docs" "$(DESTDIR)$(UNITDIR)" \
	    "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d" "$(DESTDIR)$(SYSCONFDIR)/culex"
	install -m 755 $(B)/culex-server $(B)/culex "$(DESTDIR)$(BINDIR)"
	install -m 644 $(B)/culex_capture.so "$(DESTDIR)$(LIBDIR)"
	install -m 755 $(B)/culex-writer "$(DESTDIR)$(LIBDIR)"
	install -m 644 README.md CHANGELOG.md LICENSE "$(DESTDIR)$(DOCDIR)"
	install -m 644 docs/*.md docs/*.png "$(DESTDIR)$(DOCDIR)/docs"
	install -m 644 packaging/culex.json "$(DESTDIR)$(DOCDIR)/examples/culex.json"
	test -e "$(DESTDIR)$(SYSCONFDIR)/culex/culex.json" || \
	    install -m 644 packaging/culex.json "$(DESTDIR)$(SYSCONFDIR)/culex/culex.json"
	$(fill) packaging/mosquitto-culex.conf.in >"$(DESTDIR)$(DOCDIR)/examples/mosquitto-culex.conf"
	$(fill) packaging/systemd/culex-server.service.in >"$(DESTDIR)$(UNITDIR)/culex-server.service"
	install -m 644 packaging/systemd/culex-tmpfiles.conf "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/culex.conf"
	@packaging/after-install '$(DOCDIR)' '$(SYSCONFDIR)'

# Keeps what is the user's: the configuration, if it is not the sample any more, and the data.
uninstall:
	@packaging/before-uninstall '$(SYSCONFDIR)'
	rm -f "$(DESTDIR)$(BINDIR)/culex-server" "$(DESTDIR)$(BINDIR)/culex" "$(DESTDIR)$(LIBDIR)/culex_capture.so" \
	    "$(DESTDIR)$(LIBDIR)/culex-writer" \
	    "$(DESTDIR)$(UNITDIR)/culex-server.service" "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/culex.conf"
	if cmp -s packaging/culex.json "$(DESTDIR)$(SYSCONFDIR)/culex/culex.json"; then \
	    rm -f "$(DESTDIR)$(SYSCONFDIR)/culex/culex.json"; rmdir "$(DESTDIR)$(SYSCONFDIR)/culex"; fi
	rm -rf "$(DESTDIR)$(DOCDIR)"
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

docker-test:
	docker/test.sh

systemd-test:
	tests/systemd.sh

debian-matrix:
	@FULL='$(FULL)' tests/debian-matrix.sh

.PHONY: demo install uninstall docker-test systemd-test debian-matrix

# --- test and bench: tests/run, tests/bench ---------------------------------------------------------------
TESTTOOLS := build/testtools
TOOL_CFLAGS := -std=c11 -D_GNU_SOURCE -O2 -g $(WARN) $(if $(WERROR),-Werror) -pthread
tools: $(TESTTOOLS)/mqttload $(TESTTOOLS)/kafkaread $(TESTTOOLS)/kafkawrite $(TESTTOOLS)/kafkabench \
       $(TESTTOOLS)/tablestream $(TESTTOOLS)/clockahead.so $(TESTTOOLS)/killat.so $(TESTTOOLS)/storefill $(TESTTOOLS)/storecat
$(TESTTOOLS)/storecat: tests/tools/storecat.c $(B)/libculex.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(TOOL_CFLAGS) $(LDFLAGS) -o $@ $< $(B)/libculex.a $(LDLIBS_STORE)
$(TESTTOOLS)/storefill: tests/tools/storefill.c $(B)/libculex.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(TOOL_CFLAGS) $(LDFLAGS) -o $@ $< $(B)/libculex.a $(LDLIBS_STORE)
$(TESTTOOLS)/mqttload: tests/bench/mqttload.c
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -o $@ $<
$(TESTTOOLS)/kafkaread: tests/bench/kafkaread.c
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -o $@ $< -lrdkafka
$(TESTTOOLS)/kafkabench: tests/bench/kafkabench.c
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -o $@ $< -lrdkafka
$(TESTTOOLS)/kafkawrite: tests/bench/kafkawrite.c
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -o $@ $< -lrdkafka
$(TESTTOOLS)/clockahead.so $(TESTTOOLS)/killat.so: $(TESTTOOLS)/%.so: tests/tools/%.c
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -shared -fPIC -o $@ $<
$(TESTTOOLS)/tablestream: tests/tools/tablestream.c
	@mkdir -p $(@D)
	$(CC) $(TOOL_CFLAGS) -o $@ $< -lrdkafka

test:
	@tests/run
# A UI of Kafka from its registry, by its keys, page by page; ui-picture draws docs/kaskade.png anew.
UI := build/ui
$(UI)/.done: tests/requirements-ui.txt
	rm -rf $(UI) && python3 -m venv $(UI)
	$(UI)/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@
ui-venv: $(UI)/.done
ui:
	tests/run deps build ui
ui-picture-run: all ui-venv
	packaging/install-packages ui
	UI_PICTURE=$(UI)/kaskade.svg build/venv/bin/python -m pytest -c tests/integration/pytest.ini --rootdir tests/integration -q \
	    tests/integration/test_kaskade.py
	rsvg-convert --width 900 $(UI)/kaskade.svg | pngquant --speed 1 32 - >docs/kaskade.png
.PHONY: ui ui-venv ui-picture-run
# README's table of clients and programs, from what the last `make test` (and `make ecosystem`) saw.
compatibility:
	@python3 tests/seen.py write

BENCH ?= full
bench:
	@tests/deps.sh
	@$(MAKE) --no-print-directory -j2 all tools $(COMPARE)/lib/.done
	@build/venv/bin/python tests/bench/bench.py $(BENCH)

# Everything at once while server, broker and writer are killed, and each call of a command that binds streams as the last one:
# the long forms of tests that `make test` has. And those with full disks, as root.
everything-run: all tools $(B)/torture/store_full $(B)/torture/store_full_compact
	EVERYTHING_LONG=1 build/venv/bin/python -m pytest -c tests/integration/pytest.ini --rootdir tests/integration -q \
	    tests/integration/test_everything.py tests/integration/test_bind_steps.py tests/integration/test_server_disk.py
	$(B)/torture/store_full
	$(B)/torture/store_full_compact

# A table of a million keys, updated 20 times; make test has a twentieth of it.
TABLE_KEYS ?= 1000000
compaction-test-run: all tools
	TABLE_KEYS=$(TABLE_KEYS) build/venv/bin/python -m pytest -c tests/integration/pytest.ini --rootdir tests/integration -q \
	    tests/integration/test_table.py

.PHONY: tools test compatibility bench everything-run compaction-test-run

# What people run by hand brings what it needs first, as `make test` does for its steps.
BY_HAND := kafka-compare record-test ecosystem ui-picture everything compaction-test
$(BY_HAND):
	@tests/deps.sh
	@$(MAKE) --no-print-directory $@-run
.PHONY: $(BY_HAND)

clean:
	rm -rf build

.PHONY: all unit unit-built clean
.SECONDARY:
-include $(shell find $(B) -name '*.d' 2>/dev/null)
