/* SPDX-License-Identifier: Apache-2.0 */
/* The program tools/enter, as it was built, for tools/enter_program.c. */
        .section .rodata
        .balign 16
        .globl enter_blob_start
        .hidden enter_blob_start
enter_blob_start:
        .incbin ENTER_PROGRAM
        .globl enter_blob_end
        .hidden enter_blob_end
enter_blob_end:
        .section .note.GNU-stack, "", @progbits
