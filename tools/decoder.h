/* SPDX-License-Identifier: Apache-2.0 */
/* Layers are decoded by a program of their own (tools/decoder), that this one carries: a process
 * for each layer, which can do nothing but read the layer and say what is in it. */
#ifndef TOOLS_DECODER_H
#define TOOLS_DECODER_H

#include "cas/decoding.h"

enum decoder_confine {
        DECODER_AUTO,    /* where it cannot be, layers are decoded here, and a line is logged */
        DECODER_REQUIRE, /* where it cannot be, layers are not decoded */
        DECODER_OFF,     /* they are decoded here */
};

/* What a store is opened with: NULL where layers are to be decoded here. Static storage, of which
 * there is one in a process: the first call decides. Thread-safe. */
const struct cas_decoder *decoder_of(enum decoder_confine confine);

/* Runs `program` once, which says READY first. *out_confined is set when it did; without
 * CAS_CONFINED_SECCOMP nothing was read from the source. For tests; else as cas/decoding.h says. */
int decoder_run(int program_fd, cas_source_fn source, void *source_arg,
                const struct cas_decode_sink *sink, struct cas_decode_result *out,
                uint32_t *out_confined, struct cas_err *err) CAS_MUST_CHECK;

#endif
