/* child_spawn and child_reap with a thread in place of a process.
 *
 * The thread has a mapping of its own, as the process has, and closes its end of the socket last:
 * that is what the broker's side sees of an end. */
#include "tests/faults/writer_thread.h"

#include "plugins/capture/internal.h"
#include "plugins/writer/writer.h"

#include <sys/socket.h>
#include <unistd.h>

#define PID 1 /* of whom nobody asks anything */

static struct {
    pthread_t thread;
    int memory, socket;
    int code;
    _Atomic bool runs, ended;
} only; /* the writer has static data */

static void *writer_main(void *arg)
{
    struct link *link;
    struct errmsg m;
    only.code = EXIT_FAILURE;
    if (link_attach(&link, only.memory, &m) == OK) {
        only.code = writer_run(link, only.socket);
        link_unmap(link);
    }
    close(only.socket);
    atomic_store(&only.ended, true);
    return NULL;
}

enum err child_spawn(struct child *ch, struct errmsg *m)
{
    int pair[2];
    ASSERT(!atomic_load(&only.runs));
    ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    only.memory = ch->memory;
    only.socket = pair[1];
    atomic_store(&only.ended, false);
    atomic_store(&only.runs, true);
    ASSERT(pthread_create(&only.thread, NULL, writer_main, NULL) == 0);
    ch->pid = PID;
    ch->socket = pair[0];
    ch->sent = 0;
    return OK;
}

bool child_reap(struct child *ch)
{
    if (ch->pid && !atomic_load(&only.ended)) {
        return false;
    }
    if (ch->pid) {
        pthread_join(only.thread, NULL);
        atomic_store(&only.runs, false);
        ch->status = only.code << 8;
        ch->pid = 0;
    }
    return true;
}

/* --- the log ---------------------------------------------------------------------------------- */

/* The linker's --wrap leads every call of log_set_sink to the second, and the first is it. */
void __real_log_set_sink(log_sink *sink, void *arg);
void __wrap_log_set_sink(log_sink *sink, void *arg);

void __wrap_log_set_sink(log_sink *sink, void *arg)
{
}

static void no_line(void *arg, enum log_level level, const char *line)
{
}

void writer_thread_quiet(void)
{
    __real_log_set_sink(no_line, NULL);
}
