/* Faults of the world, on order: the n-th allocation or the n-th system call of a stretch of code
 * fails.
 *
 * The functions of the C library are replaced in the program that links this, so that libraries
 * meet the same faults as our own code. Allocations fail in the thread that armed them only; system
 * calls in every thread, because writing to disk is the business of threads that we did not
 * start. */
#ifndef CULEX_TESTS_FAULTS_FAULTS_H
#define CULEX_TESTS_FAULTS_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

enum fault {
    FAULT_ALLOCATION, /* NULL, ENOMEM */
    FAULT_CALL,       /* open, write, mmap, rename, fsync and their like: the given errno */
};

/* From now on counts the calls of this kind. The nth of them fails (from 1; 0: none), and if `on`
 * is set every later one, too. */
void faults_arm(enum fault fault, uint64_t nth, bool on, int error);
/* No more faults; returns how many calls of the kind there were. */
uint64_t faults_disarm(void);
/* True when a fault was dealt out since faults_arm. */
bool faults_dealt(void);
/* Allocations of this thread that were not freed yet, and open file descriptors. */
int64_t faults_live_allocations(void);
int faults_open_files(void);

#endif
