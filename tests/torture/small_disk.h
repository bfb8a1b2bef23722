/* What the tortures with a full disk share: a small file system of their own, at root, and a file
 * on it that takes the room away. */
#ifndef CULEX_TESTS_SMALL_DISK_H
#define CULEX_TESTS_SMALL_DISK_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#define CHECK(cond, ...)                                                                           \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "FAILED %s:%d: ", __FILE__, __LINE__);                                 \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            umount2(root, MNT_DETACH);                                                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static char root[256], dir[300], ballast[300]; /* mounted; the store's; what fills it */

/* A file that leaves so many bytes of the file system. */
static void make_ballast(uint64_t leave)
{
    static char block[64 << 10];
    int fd = open(ballast, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0, "ballast");
    while (write(fd, block, sizeof block) > 0) {
    }
    while (write(fd, block, 4096) > 0) {
    }
    off_t size = lseek(fd, 0, SEEK_END);
    CHECK(ftruncate(fd, size > (off_t)leave ? size - (off_t)leave : 0) == 0, "ballast");
    close(fd);
}

#endif
