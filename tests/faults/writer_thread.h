/* The writer as a thread of the test: what plugins/capture/spawn.c does with a process, so that the
 * faults of this program hit its code, too. */
#ifndef CULEX_TESTS_FAULTS_WRITER_THREAD_H
#define CULEX_TESTS_FAULTS_WRITER_THREAD_H

/* No line of the log is printed, and the writer's sink (the broker's socket, from which the lines
 * would come back into the log) is never set. */
void writer_thread_quiet(void);

#endif
