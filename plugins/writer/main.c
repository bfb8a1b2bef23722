/* culex-writer: the process beside the broker that writes its publishes into the log. The plugin
 * starts it, with a socket and a piece of memory as its descriptors 3 and 4, and starts it again
 * when it ends.
 *
 * Signals are for the broker: one that the terminal or a service manager sends to all of a group
 * would end the writer before the broker has handed over its last publish. It leaves when the
 * broker says so, or is gone. */
#include "plugins/link/link.h"
#include "plugins/writer/writer.h"

#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>

/* Memtables come and go as blocks of about 1 MB. Left to itself, glibc learns from the first one
 * that is freed to keep such blocks on its heap, where one small neighbour holds many of them:
 * 60 MB more after some segments. With a fixed threshold each is a mapping that goes away whole. */
#define MALLOC_MMAP_BYTES (512 << 10)
/* What lies free at the end of a heap is kept up to this: a tick would get it back from the kernel
 * at once, page by page. */
#define MALLOC_KEEP_BYTES (4 << 20)
#define TIMER_SLACK_NS    1000 /* naps are shorter than its default */

int main(int argc, char **argv)
{
    int type = 0;
    socklen_t len = sizeof type;
    if (getsockopt(LINK_SOCKET_FD, SOL_SOCKET, SO_TYPE, &type, &len) != 0 ||
        type != SOCK_SEQPACKET) {
        fprintf(stderr, "%s: the Mosquitto plugin culex_capture.so starts this program; there is "
                "nothing to run by hand\n", argc ? argv[0] : "culex-writer");
        return 2;
    }
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    mallopt(M_MMAP_THRESHOLD, MALLOC_MMAP_BYTES);
    mallopt(M_TRIM_THRESHOLD, MALLOC_KEEP_BYTES);
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
    /* Where there is no idle processor, a thread that wakes takes the one of who runs there: of the
     * broker, with every client behind it. The database's threads inherit that they wait instead.
     * Refused (a sandbox's filter), all works as well. */
    (void)sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
    struct link *link;
    struct errmsg m;
    if (link_attach(&link, LINK_MEMORY_FD, &m)) {
        if (link_send(LINK_SOCKET_FD, LINK_LINE, LOG_ERROR, m.text, -1)) {
            fprintf(stderr, "culex-writer: %s\n", m.text);
        }
        return EXIT_FAILURE;
    }
    return writer_run(link, LINK_SOCKET_FD);
}
