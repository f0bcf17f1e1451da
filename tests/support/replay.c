/* SPDX-License-Identifier: Apache-2.0 */
/* Replays files, and directories of files, through a fuzz target where libFuzzer is not linked. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "cas/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
        cas_cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) != 0) {
                perror(path);
                return 1;
        }
        cas_cleanup_free uint8_t *data = cas_xmalloc((size_t)st.st_size);
        if (read(fd, data, (size_t)st.st_size) != st.st_size) {
                perror(path);
                return 1;
        }
        (void)LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
        return 0;
}

int main(int argc, char **argv)
{
        int bad = 0;
        unsigned count = 0;
        for (int i = 1; i < argc; i++) {
                DIR *dir = opendir(argv[i]);
                if (!dir) {
                        bad |= replay_file(argv[i]);
                        count++;
                        continue;
                }
                for (struct dirent *e; (e = readdir(dir));) {
                        if (e->d_name[0] == '.')
                                continue;
                        cas_cleanup_free char *path = cas_xasprintf("%s/%s", argv[i], e->d_name);
                        bad |= replay_file(path);
                        count++;
                }
                (void)closedir(dir);
        }
        printf("%u inputs replayed\n", count);
        return bad;
}
