/* SPDX-License-Identifier: Apache-2.0 */
/* The program tools/decoder, as it was built, for tools/decoder.c. */
        .section .rodata
        .balign 16
        .globl decoder_blob_start
        .hidden decoder_blob_start
decoder_blob_start:
        .incbin DECODER_PROGRAM
        .globl decoder_blob_end
        .hidden decoder_blob_end
decoder_blob_end:
        .section .note.GNU-stack, "", @progbits
