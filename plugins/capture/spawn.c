/* Starting the writer's process, and waiting for its end.
 *
 * posix_spawn has vfork's semantics, so a broker of any size can do it at any time. The program
 * lies beside the plugin, and gets the two descriptors that it needs, none of the broker's own. */
#include "plugins/capture/internal.h"

#include "shared/base/clock.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM "culex-writer"
#define FD_HIGH 16 /* out of the way of the descriptors that the writer gets */

/* The program beside the plugin, by its whole path: the broker's directory may be another one when
 * the writer is started again. */
static bool beside(const char *plugin, char *out)
{
    char name[PATH_MAX];
    const char *slash = strrchr(plugin, '/');
    int n = snprintf(name, sizeof name, "%.*s" PROGRAM, slash ? (int)(slash - plugin + 1) : 0,
                     plugin);
    return n > 0 && (size_t)n < sizeof name && realpath(name, out) && access(out, X_OK) == 0;
}

/* Looked for once. The plugin may be a link to where it was installed: then there. */
static enum err program_find(struct child *ch, struct errmsg *m)
{
    Dl_info info;
    char plugin[PATH_MAX];
    if (ch->program[0]) {
        return OK;
    }
    if (!dladdr((void *)(uintptr_t)child_spawn, &info) || !info.dli_fname) {
        return err_set(m, ERR_IO, "where the plugin lies is not known");
    }
    if (beside(info.dli_fname, ch->program) ||
        (realpath(info.dli_fname, plugin) && beside(plugin, ch->program))) {
        return OK;
    }
    int error = errno;
    ch->program[0] = '\0';
    return err_set(m, ERR_IO, PROGRAM ", which the plugin needs beside it, cannot be run "
                   "plugin=%s: %s", info.dli_fname, strerror(error));
}

static int spawn(struct child *ch, int theirs, int memory)
{
    extern char **environ;
    char *argv[] = {(char[]){PROGRAM}, NULL};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    int error = posix_spawn_file_actions_init(&fa);
    if (error) {
        return error;
    }
    error = posix_spawnattr_init(&at);
    if (!error) {
        sigset_t none, all;
        sigemptyset(&none);
        sigfillset(&all);
        (void)posix_spawnattr_setsigmask(&at, &none);
        (void)posix_spawnattr_setsigdefault(&at, &all);
        (void)posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        error = posix_spawn_file_actions_adddup2(&fa, theirs, LINK_SOCKET_FD);
        error = error ? error : posix_spawn_file_actions_adddup2(&fa, memory, LINK_MEMORY_FD);
        error = error ? error : posix_spawn_file_actions_addclosefrom_np(&fa, LINK_MEMORY_FD + 1);
        error = error ? error : posix_spawn(&ch->pid, ch->program, &fa, &at, argv, environ);
        posix_spawnattr_destroy(&at);
    }
    posix_spawn_file_actions_destroy(&fa);
    return error;
}

enum err child_spawn(struct child *ch, struct errmsg *m)
{
    int pair[2];
    enum err e = program_find(ch, m);
    if (e) {
        return e;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        return err_set(m, ERR_IO, "cannot make a socket: %s", strerror(errno));
    }
    int theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, FD_HIGH);
    int memory = fcntl(ch->memory, F_DUPFD_CLOEXEC, FD_HIGH);
    int error = theirs < 0 || memory < 0 ? errno : spawn(ch, theirs, memory);
    close(pair[1]);
    if (theirs >= 0) {
        close(theirs);
    }
    if (memory >= 0) {
        close(memory);
    }
    if (error) {
        ch->pid = 0;
        close(pair[0]);
        return err_set(m, ERR_IO, "cannot start %s: %s", ch->program, strerror(error));
    }
    ch->socket = pair[0];
    ch->started_us = clock_mono_us();
    ch->sent = 0;
    return OK;
}

bool child_reap(struct child *ch)
{
    int status = 0;
    pid_t got = ch->pid ? waitpid(ch->pid, &status, WNOHANG) : -1;
    if (got == 0) {
        return false;
    }
    ch->status = got > 0 ? status : 0; /* where somebody else has waited for it, nobody knows */
    ch->pid = 0;
    return true;
}
