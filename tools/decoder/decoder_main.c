/* SPDX-License-Identifier: Apache-2.0 */
/* lamina-decoder: decodes one layer in a process that can do nothing else. The program carries it
 * (tools/decoder_blob.S) and starts one for each layer (tools/decoder.c): stored bytes come in at
 * descriptor 0, frames go out at 1 (spec/decoder.md). */
#include <stdlib.h>
#include <sys/prctl.h>

#include "cas/decodeframe.h"
#include "tools/decoder/confine.h"
#include "tools/decoder/decoder_limits.h"

int main(void)
{
        uint32_t confined;
        (void)prctl(PR_SET_NAME, "lamina-decoder", 0, 0, 0);
        confine(DECODER_MEMORY_BYTES, DECODER_CPU_S_MAX, &confined);
        if (!cas_decodeframe_ready(STDOUT_FILENO, confined))
                return EXIT_FAILURE;
        if (!(confined & CAS_CONFINED_SECCOMP))
                return EXIT_FAILURE;
        return cas_decodeframe_serve(STDIN_FILENO, STDOUT_FILENO) ? EXIT_SUCCESS : EXIT_FAILURE;
}
